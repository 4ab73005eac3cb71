//! The kernel's own count of events, by tracefs (Documentation/trace/histogram.rst): it neither loses events nor
//! writes one out.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where tracefs is mounted.
const TRACEFS: &str = "/sys/kernel/tracing";

/// System calls (`include/uapi/asm-generic/unistd.h`) by which a VMM gives memory back.
pub mod call {
    /// `fallocate`.
    pub const FALLOCATE: u64 = 47;
    /// `madvise`.
    pub const MADVISE: u64 = 233;
    /// `process_madvise`.
    pub const PROCESS_MADVISE: u64 = 440;
    /// `ioctl`: by which a page map is scanned.
    pub const IOCTL: u64 = 29;
    /// Those that give memory back.
    pub const DISCARDS: [u64; 3] = [FALLOCATE, MADVISE, PROCESS_MADVISE];
    /// Those that a release makes.
    pub const RELEASE: [u64; 4] = [IOCTL, FALLOCATE, MADVISE, PROCESS_MADVISE];
}

/// Counts of events by the values of some of their fields. Counting goes on until the value is dropped.
#[derive(Debug)]
pub struct Counter {
    folder: PathBuf,
    trigger: String,
}

/// One line of a histogram: the fields, and how often they had these values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Values by the fields' names.
    pub keys: BTreeMap<String, u64>,
    /// How often.
    pub hits: u64,
}

impl Counter {
    /// Starts to count `event` (`kvm/kvm_guest_fault`) by `keys`, where `filter` holds.
    ///
    /// # Errors
    /// A kernel without the event or without histograms, or a user who may not.
    pub fn start(event: &str, keys: &[&str], filter: Option<&str>) -> io::Result<Self> {
        let folder = Path::new(TRACEFS).join("events").join(event);
        let mut trigger = format!("hist:keys={}:size=16384", keys.join(","));
        if let Some(filter) = filter {
            trigger += &format!(" if {filter}");
        }
        write(&folder, &trigger)?;
        Ok(Self { folder, trigger })
    }

    /// Counts system calls by thread and number.
    ///
    /// # Errors
    /// As [`Counter::start`].
    pub fn system_calls() -> io::Result<Self> {
        Self::start("raw_syscalls/sys_enter", &["common_pid", "id"], None)
    }

    /// What has been counted so far.
    ///
    /// # Errors
    /// A histogram that can't be read, or one that was too small.
    pub fn read(&self) -> io::Result<Vec<Entry>> {
        parse(&fs::read_to_string(self.folder.join("hist"))?)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // Where it fails the host goes on counting, which costs it a little.
        let _ = write(&self.folder, &format!("!{}", self.trigger));
    }
}

/// A record of the discards and scans of one named thread, with their times. Recording goes on until the value is
/// dropped.
#[derive(Debug)]
pub struct Recorder(());

/// The events that a [`Recorder`] writes down.
const RECORDED: [&str; 2] = ["raw_syscalls/sys_enter", "raw_syscalls/sys_exit"];

impl Recorder {
    /// Starts to record what threads called `name` do.
    ///
    /// # Errors
    /// As [`Counter::start`].
    pub fn start(name: &str) -> io::Result<Self> {
        let root = Path::new(TRACEFS);
        fs::write(root.join("trace"), "")?;
        let calls: Vec<String> = call::RELEASE.iter().map(|id| format!("id == {id}")).collect();
        for event in RECORDED {
            let folder = root.join("events").join(event);
            fs::write(folder.join("filter"), format!("comm == \"{name}\" && ({})", calls.join(" || ")))?;
            fs::write(folder.join("enable"), "1")?;
        }
        Ok(Self(()))
    }

    /// The calls so far, in their order.
    ///
    /// # Errors
    /// A record that can't be read.
    pub fn read(&self) -> io::Result<Vec<Call>> {
        parse_calls(&fs::read_to_string(Path::new(TRACEFS).join("trace"))?)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for event in RECORDED {
            let folder = Path::new(TRACEFS).join("events").join(event);
            // Where it fails the host goes on recording, which costs it a little.
            let _ = fs::write(folder.join("enable"), "0");
            let _ = fs::write(folder.join("filter"), "0");
        }
    }
}

/// One system call: its number, when it began and ended since the host was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Its number.
    pub id: u64,
    /// When it began.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
}

/// Reads a record as the kernel prints it: `balloon-123 [000] ..... 12.345678: sys_enter: NR 440 (...)`.
fn parse_calls(text: &str) -> io::Result<Vec<Call>> {
    let odd = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a record: {line}"));
    let mut calls = Vec::new();
    let mut begun: Option<(u64, Duration)> = None;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (kind, (head, rest)) = match line.split_once(": sys_enter: NR ") {
            Some(parts) => (0, parts),
            None => (1, line.split_once(": sys_exit: NR ").ok_or_else(|| odd(line))?),
        };
        let id = rest.split_whitespace().next().and_then(|word| word.parse().ok());
        let at: Option<f64> = head.split_whitespace().last().and_then(|word| word.parse().ok());
        let (Some(id), Some(at)) = (id, at) else { return Err(odd(line)) };
        let at = Duration::from_secs_f64(at);
        match (kind, begun) {
            (0, _) => begun = Some((id, at)),
            (_, Some((same, from))) if same == id => {
                calls.push(Call { id, from, to: at });
                begun = None;
            }
            // One that had begun before the record did.
            _ => {}
        }
    }
    Ok(calls)
}

fn write(folder: &Path, trigger: &str) -> io::Result<()> {
    let path = folder.join("trigger");
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().append(true).open(&path).map_err(named)?;
    file.write_all(trigger.as_bytes()).map_err(named)
}

/// Reads a histogram as the kernel prints it.
fn parse(text: &str) -> io::Result<Vec<Entry>> {
    let odd = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a histogram: {line}"));
    let mut entries = Vec::new();
    for line in text.lines() {
        if let Some(dropped) = line.trim().strip_prefix("Dropped:")
            && dropped.trim() != "0"
        {
            return Err(odd(line));
        }
        let Some(rest) = line.strip_prefix('{') else { continue };
        let (fields, count) = rest.split_once('}').ok_or_else(|| odd(line))?;
        let hits = count.trim().strip_prefix("hitcount:").and_then(|hits| hits.trim().parse().ok());
        let keys = fields.split(',').map(|field| {
            let (name, value) = field.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().parse().ok()?))
        });
        let keys: Option<BTreeMap<_, _>> = keys.collect();
        let (Some(keys), Some(hits)) = (keys, hits) else { return Err(odd(line)) };
        entries.push(Entry { keys, hits });
    }
    Ok(entries)
}

/// Sums up what `threads` did, by system call.
pub fn by_call(entries: &[Entry], threads: &[u64]) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for entry in entries {
        if let (Some(thread), Some(&id)) = (entry.keys.get("common_pid"), entry.keys.get("id"))
            && threads.contains(thread)
        {
            *sums.entry(id).or_default() += entry.hits;
        }
    }
    sums
}

/// How many of these calls discarded memory.
pub fn discards(calls: &BTreeMap<u64, u64>) -> u64 {
    call::DISCARDS.iter().filter_map(|id| calls.get(id)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# event histogram\n#\n# trigger info: hist:keys=common_pid,id:vals=hitcount:sort=hitcount\
                        :size=16384 [active]\n#\n\n\
                        { common_pid:        301, id:        233 } hitcount:          2\n\
                        { common_pid:        302, id:         47 } hitcount:          5\n\
                        { common_pid:         88, id:        233 } hitcount:     131072\n\n\
                        Totals:\n    Hits: 131079\n    Entries: 3\n    Dropped: 0\n";

    #[test]
    fn a_histogram_is_read_by_its_fields() {
        let entries = parse(TEXT).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!((entries[0].keys["common_pid"], entries[0].keys["id"], entries[0].hits), (301, 233, 2));
    }

    #[test]
    fn only_the_threads_that_are_asked_for_count() {
        let calls = by_call(&parse(TEXT).unwrap(), &[301, 302]);
        assert_eq!(calls, BTreeMap::from([(47, 5), (233, 2)]));
        assert_eq!(discards(&calls), 7);
    }

    #[test]
    fn a_record_pairs_the_ends_of_each_call() {
        let text = "# tracer: nop\n#\n\
                    \x20        balloon-412     [000] .....    99.000001: sys_exit: NR 29 = 0\n\
                    \x20        balloon-412     [000] .....   100.500000: sys_enter: NR 29 (5, c0606610, 1, 2, 3, 4)\n\
                    \x20        balloon-412     [000] .....   100.500250: sys_exit: NR 29 = 4\n\
                    \x20        balloon-412     [000] .....   100.501000: sys_enter: NR 440 (ffff, 1, 2, 4, 0, 0)\n\
                    \x20        balloon-412     [000] .....   100.503000: sys_exit: NR 440 = 67108864\n";
        let calls = parse_calls(text).unwrap();
        assert_eq!(calls.iter().map(|call| call.id).collect::<Vec<_>>(), [29, 440]);
        assert_eq!((calls[1].to - calls[0].from).as_micros(), 3000);
        assert!(parse_calls("nonsense").is_err());
    }

    #[test]
    fn a_histogram_that_was_too_small_is_an_error() {
        let text = TEXT.replace("Dropped: 0", "Dropped: 3");
        assert!(parse(&text).unwrap_err().to_string().contains("Dropped: 3"));
        assert!(parse("{ common_pid: x } hitcount: 1").is_err());
    }
}
