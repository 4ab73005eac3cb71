use super::super::DiskConfig;
use super::*;

fn refusal(config: &VmConfig) -> String {
    config.validate().unwrap_err().to_string()
}

fn with_memory(text: &str) -> VmConfig {
    VmConfig { memory: text.parse().unwrap(), ..VmConfig::default() }
}

fn with_disks(disks: &[&str]) -> VmConfig {
    VmConfig { disks: disks.iter().map(|disk| disk.parse().unwrap()).collect(), ..VmConfig::default() }
}

#[test]
fn the_default_vm_is_valid() {
    VmConfig::default().validate().unwrap();
}

#[test]
fn memory_of_zero_is_refused() {
    assert!(matches!(with_memory("0").validate(), Err(Error::MemoryZero)));
}

#[test]
fn memory_that_ends_within_a_block_names_what_fits() {
    for (memory, expected) in [
        (
            "3073M,block=2M",
            "memory size 3073M is not a multiple of the 2M block size: use 3074M or block=64K",
        ),
        (
            "3000004K,block=2M",
            "memory size 3000004K is not a multiple of the 2M block size: use 2930M or block=4K",
        ),
        ("1536M,block=1G", "memory size 1536M is not a multiple of the 1G block size: use 2G or block=32M"),
        ("1000000", "memory size 1000000 is not a multiple of the 4K block size: use 980K"),
        (
            "100M,backing=hugetlb,block=32M",
            "memory size 100M is not a multiple of the 32M block size: use 128M or block=2M",
        ),
        ("4K,backing=hugetlb,block=2M", "memory size 4K is not a multiple of the 2M block size: use 2M"),
        ("68K,backing=hugetlb", "memory size 68K is not a multiple of the 64K block size: use 128K"),
    ] {
        assert_eq!(refusal(&with_memory(memory)), expected, "{memory}");
    }
}

#[test]
fn what_the_refusal_of_a_partial_block_suggests_is_valid() {
    for memory in ["3000004K,block=2M", "1536M,block=1G", "1000000", "68K,backing=hugetlb", "1025M,block=32M"]
    {
        let config = with_memory(memory);
        let Err(Error::MemoryNotBlocks { fitting, smaller, .. }) = config.validate() else {
            panic!("{memory} is valid");
        };
        let memory = MemoryConfig { size: fitting, ..config.memory.clone() };
        VmConfig { memory, ..VmConfig::default() }.validate().unwrap();
        if let Some(block) = smaller {
            let memory = MemoryConfig { block, ..config.memory.clone() };
            VmConfig { memory, ..VmConfig::default() }.validate().unwrap();
        }
    }
}

#[test]
fn whole_blocks_are_valid() {
    for memory in ["4K", "3G,block=2M", "1536M,block=32M", "1G,backing=hugetlb", "4P"] {
        with_memory(memory).validate().unwrap();
    }
}

#[test]
fn memory_beyond_52_bits_is_refused() {
    assert!(matches!(with_memory("4097T").validate(), Err(Error::MemoryTooLarge { .. })));
    assert!(matches!(with_memory("16383P").validate(), Err(Error::MemoryTooLarge { .. })));
}

#[test]
fn hugetlb_has_no_base_pages() {
    assert!(matches!(with_memory("1G,backing=hugetlb,block=4K").validate(), Err(Error::HugetlbBasePages)));
    with_memory("1G,backing=memfd,block=4K").validate().unwrap();
}

#[test]
fn cpus_range_from_1_to_512() {
    let with_cpus = |cpus| VmConfig { cpus, ..VmConfig::default() }.validate();
    assert!(matches!(with_cpus(0), Err(Error::CpusZero)));
    with_cpus(1).unwrap();
    with_cpus(512).unwrap();
    for cpus in [513, u32::MAX] {
        assert!(with_cpus(cpus).unwrap_err().to_string().contains("512"));
    }
}

#[test]
fn an_initrd_needs_a_kernel() {
    let config = VmConfig { initrd: Some("initrd".into()), ..VmConfig::default() };
    assert!(matches!(config.validate(), Err(Error::InitrdWithoutKernel)));
    VmConfig { kernel: Some("Image".into()), ..config }.validate().unwrap();
}

#[test]
fn a_command_line_has_room_for_its_final_nul() {
    let with_length = |length| VmConfig { cmdline: Some("x".repeat(length)), ..VmConfig::default() };
    with_length(0).validate().unwrap();
    with_length(2047).validate().unwrap();
    assert!(matches!(with_length(2048).validate(), Err(Error::CmdlineTooLong { length: 2048 })));
}

#[test]
fn a_command_line_is_printable_ascii() {
    for (cmdline, position) in [("a\0b", 1), ("quiet é", 6), ("\x1b[2J", 0), ("a\x7f", 1)] {
        let config = VmConfig { cmdline: Some(cmdline.into()), ..VmConfig::default() };
        assert!(
            matches!(config.validate(), Err(Error::CmdlineCharacter { offset, .. }) if offset == position),
            "{cmdline:?}"
        );
    }
    VmConfig { cmdline: Some("a=\"b c\"\td\n".into()), ..VmConfig::default() }.validate().unwrap();
}

#[test]
fn a_disk_given_twice_is_refused() {
    for disks in [["a.img", "a.img"], ["a.img", "./a.img"], ["d/a.img", "d//a.img"], ["a.img,ro", "a.img,ro"]]
    {
        assert!(matches!(with_disks(&disks).validate(), Err(Error::DiskTwice { .. })), "{disks:?}");
    }
    with_disks(&["a.img", "b.img"]).validate().unwrap();
}

#[test]
fn a_file_that_something_writes_has_one_role() {
    let disk = with_disks(&["a.img"]);
    let console = VmConfig { console: ConsoleConfig::File("a.img".into()), ..disk.clone() };
    assert_eq!(refusal(&console), "a.img is both disk and console file: each needs a file of its own");
    let backing = VmConfig {
        memory: MemoryConfig { backing: Backing::File("a.img".into()), ..MemoryConfig::default() },
        ..disk.clone()
    };
    assert!(matches!(backing.validate(), Err(Error::PathTwice { .. })));
    let kernel = VmConfig { kernel: Some("a.img".into()), ..disk };
    assert!(matches!(kernel.validate(), Err(Error::PathTwice { .. })));
}

#[test]
fn a_file_that_is_only_read_may_have_two_roles() {
    let config = VmConfig { kernel: Some("a.img".into()), ..with_disks(&["a.img,ro"]) };
    config.validate().unwrap();
}

#[test]
fn empty_paths_are_refused_and_named() {
    let kernel = VmConfig { kernel: Some("".into()), ..VmConfig::default() };
    assert_eq!(refusal(&kernel), "the path of the kernel is empty");
    let disk =
        VmConfig { disks: vec![DiskConfig { path: "".into(), read_only: false }], ..VmConfig::default() };
    assert_eq!(refusal(&disk), "the path of the disk is empty");
}

fn with_balloon(memory: &str, balloon: &str) -> VmConfig {
    VmConfig { balloon: Some(balloon.parse().unwrap()), ..with_memory(memory) }
}

#[test]
fn a_balloon_is_no_larger_than_the_memory() {
    assert_eq!(
        refusal(&with_balloon("512M", "size=513M")),
        "a balloon of 513M is larger than the memory of 512M: use at most size=512M"
    );
    for (memory, balloon) in [("512M", ""), ("512M", "512M"), ("16T", "17179869180K")] {
        with_balloon(memory, balloon).validate().unwrap();
    }
    // The device counts pages of 4 KiB in 32 bits.
    assert!(refusal(&with_balloon("32T", "16T")).ends_with("use at most size=17179869180K"));
}

#[test]
fn a_balloon_is_whole_pages_and_asks_now_and_then() {
    assert_eq!(
        refusal(&with_balloon("512M", "size=9000")),
        "balloon size 9000 is not a multiple of 4K, the unit of balloons: use size=8K"
    );
    with_balloon("512M", "stats=65535").validate().unwrap();
    for seconds in ["65536", "18446744073709551616"] {
        let message = refusal(&with_balloon("512M", &format!("stats={seconds}")));
        assert!(message.ends_with("is longer than 65535 seconds"), "{message}");
    }
    assert!(refusal(&with_balloon("512M", "block=1G")).contains("use a smaller block"));
}
