//! How long a launch takes, and how much memory the VMM needs beside the guest's.
//!
//! `cargo lab bench launch` runs it in an emulated host that counts instructions instead of time
//! (1 ns of virtual time each), where the figures repeat; on a real arm64 KVM host
//! `cargo bench -p e2e --bench launch` does, and there a median is what it is worth.

#[cfg(target_arch = "aarch64")]
mod launch {
    use std::fs;
    use std::process::Command;

    use e2e::api::Api;
    use e2e::environment::linux;
    use e2e::guest::Guest;
    use e2e::{Kernel, Userland, environment, userland};

    /// How often a launch is repeated; the figure is the median.
    const LAUNCHES: usize = 5;
    /// The guest's memory, in MiB.
    const GUEST_MIB: u64 = 512;

    /// Microseconds from process start to the point `what` of the timeline.
    fn at(text: &str, what: &str) -> u64 {
        text.lines()
            .find_map(|line| line.trim().strip_suffix(what)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("the timeline has no {what}:\n{text}"))
    }

    fn median(mut figures: Vec<u64>) -> u64 {
        figures.sort_unstable();
        figures[figures.len() / 2]
    }

    /// KiB of PSS and of private dirty memory of a process, without mappings as large as the guest.
    fn own_memory(pid: u32) -> (u64, u64) {
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the process is there");
        let (mut pss, mut dirty, mut guest) = (0, 0, false);
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
            let kib: u64 = value.parse().unwrap_or(0);
            match key {
                "Size:" => guest = kib >= GUEST_MIB << 10,
                "Pss:" if !guest => pss += kib,
                "Private_Dirty:" if !guest => dirty += kib,
                _ => {}
            }
        }
        (pss, dirty)
    }

    fn row(what: &str, figure: String, goal: &str) {
        println!("{what:<62}{figure:>12}   {goal}");
    }

    pub(crate) fn main() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let memory = format!("{GUEST_MIB}M");

        // From memory: a program that the emulated host reads from a shared folder waits for this machine at each page
        // that it touches first.
        let program = folder.path().join("quire");
        fs::copy(environment::quire(), &program).expect("the program can be copied");
        let timelines: Vec<String> = (0..LAUNCHES)
            .map(|_| {
                let args = ["run", "--memory", &memory, "--cmdline", "poweroff", "--timing"];
                let (status, text) = Guest::spawn(Command::new(&program).args(args)).wait();
                if status.success() { text } else { panic!("the guest failed:\n{text}") }
            })
            .collect();
        let point = |what| median(timelines.iter().map(|text| at(text, what)).collect());
        println!("median of {LAUNCHES} launches, {GUEST_MIB} MiB guest\n");
        for what in ["guest memory mapped", "VM created", "kernel loaded", "vCPUs and devices ready"] {
            row(&format!("process start to: {what}"), format!("{} us", point(what)), "");
        }
        row(
            "process start to: first guest instruction",
            format!("{} us", point("first guest instruction")),
            "goal: at most 15000 us",
        );
        row("process start to: first console byte", format!("{} us", point("first console byte")), "");

        let initrd = Userland::new(Kernel::New, "read line").write(folder.path());
        let socket = folder.path().join("api.sock");
        for (what, goals, more) in [
            ("", ["goal: at most 3072 KiB", "goal: at most 256 KiB"], None),
            (", with an API that was asked", ["", ""], Some(["--api-sock", socket.to_str().expect("UTF-8")])),
        ] {
            let more: Vec<&str> = more.into_iter().flatten().collect();
            let args = [&["--memory", &memory], more.as_slice()].concat();
            let mut guest = Guest::start(linux(Kernel::New, &initrd, &args));
            guest.wait_for(userland::READY);
            if !more.is_empty() {
                let api = Api::at(&socket);
                assert_eq!(api.ask("GET", "/vm/config", "").0, 200);
                api.vm("Paused");
                api.vm("Resumed");
            }
            let (pss, dirty) = own_memory(guest.pid().as_raw_nonzero().get().unsigned_abs());
            guest.send("\n");
            guest.expect_exit(0);
            println!("\na Linux guest is up{what}\n");
            row("the VMM's memory beside the guest's: PSS", format!("{pss} KiB"), goals[0]);
            row("the VMM's memory beside the guest's: private dirty", format!("{dirty} KiB"), goals[1]);
        }
        let size = fs::metadata(environment::quire()).map_or(0, |file| file.len());
        row("the program's file, with line tables", format!("{} KiB", size >> 10), "");
    }
}

fn main() {
    #[cfg(target_arch = "aarch64")]
    launch::main();
    #[cfg(not(target_arch = "aarch64"))]
    println!("this measures guests on arm64 KVM: `cargo lab bench launch` sets up a host for it");
}
