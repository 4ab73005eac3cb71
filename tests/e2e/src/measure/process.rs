//! A process's memory and processor time, as procfs has them.

use std::fs;
use std::io;
use std::ops::Sub;
use std::time::Duration;

/// Processor time of all threads of a process, those that have ended included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// In the process itself.
    pub user: Duration,
    /// In the kernel on its behalf, not in the guest.
    pub system: Duration,
    /// In the guest.
    pub guest: Duration,
}

impl Sub for Times {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            guest: self.guest.saturating_sub(before.guest),
        }
    }
}

/// What a process has used so far.
///
/// # Errors
/// Where there is no such process.
pub fn times(pid: u32) -> io::Result<Times> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text, rustix::param::clock_ticks_per_second()).ok_or_else(|| odd(&text))
}

/// Bytes that a process has resident.
///
/// # Errors
/// Where there is no such process.
pub fn resident(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: Option<u64> = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Ok(pages.ok_or_else(|| odd(&text))? * rustix::param::page_size() as u64)
}

/// The ids of a process's threads.
///
/// # Errors
/// Where there is no such process.
pub fn threads(pid: u32) -> io::Result<Vec<u64>> {
    let names = fs::read_dir(format!("/proc/{pid}/task"))?;
    names
        .map(|entry| {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            name.parse().map_err(|_| odd(&name))
        })
        .collect()
}

fn odd(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not what procfs says: {text}"))
}

/// proc_pid_stat(5). The kernel counts a guest's time as user time, too.
fn parse_stat(text: &str, ticks: u64) -> Option<Times> {
    // The name may hold anything, but the last parenthesis ends it.
    let (_, rest) = text.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| -> Option<Duration> {
        let count: u64 = words.get(number - 3)?.parse().ok()?;
        Some(Duration::from_micros(count * 1_000_000 / ticks))
    };
    let (user, system, guest) = (field(14)?, field(15)?, field(43)?);
    Some(Times { user: user.saturating_sub(guest), system, guest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_time_is_not_the_vmms() {
        let text = "7 (a) b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 130 0 0 20 0 3 0 5 1000 200 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 200 0 0 0 0 0 0 0 0 0";
        let ms = Duration::from_millis;
        let times = parse_stat(text, 100).unwrap();
        assert_eq!(times, Times { user: ms(500), system: ms(1300), guest: ms(2000) });
        assert_eq!(parse_stat("7 (x) S 1", 100), None);
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 0 && times(pid).is_ok());
        assert!(threads(pid).unwrap().contains(&u64::from(pid)));
        assert!(times(u32::MAX).is_err());
    }
}
