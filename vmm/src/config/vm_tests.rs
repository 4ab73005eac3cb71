use super::super::{Backing, BlockSize, Repopulate, Watch};
use super::*;

const FULL: &str = r#"{
    "kernel": "Image", "initrd": "initrd.img", "cmdline": "quiet", "cpus": 4, "el2": "e2h0",
    "memory": { "size": "3G", "backing": "file:/dev/shm/a,b", "block": "2M", "prefault": true },
    "balloon": { "size": "1G", "stats": 5, "report": true, "hint": "on", "deflate-on-oom": true, "block": "2M",
                 "repopulate": "block", "must-tell-host": false },
    "disks": [ { "path": "a,b.img", "ro": true }, "c.img" ],
    "track": { "dirty": true, "young": "presence" },
    "console": "file:out.log", "api_sock": "api.sock"
}"#;

fn full() -> VmConfig {
    VmConfig {
        kernel: Some("Image".into()),
        initrd: Some("initrd.img".into()),
        cmdline: Some("quiet".into()),
        cpus: 4,
        el2: El2::E2h0,
        memory: MemoryConfig {
            size: 3 << 30,
            backing: Backing::File("/dev/shm/a,b".into()),
            block: BlockSize::Size2M,
            prefault: true,
        },
        disks: vec![
            DiskConfig { path: "a,b.img".into(), read_only: true },
            DiskConfig { path: "c.img".into(), read_only: false },
        ],
        balloon: Some(BalloonConfig {
            size: 1 << 30,
            stats: 5,
            report: true,
            hint: true,
            deflate_on_oom: true,
            block: BlockSize::Size2M,
            repopulate: Repopulate::Block,
            must_tell_host: false,
        }),
        track: TrackConfig { dirty: true, young: Watch::Presence },
        console: ConsoleConfig::File("out.log".into()),
        api_sock: Some("api.sock".into()),
    }
}

fn refusal(text: &str) -> String {
    VmConfig::from_json(text).unwrap_err().to_string()
}

#[test]
fn an_empty_object_is_the_default_vm() {
    assert_eq!(VmConfig::from_json("{}").unwrap(), VmConfig::default());
}

#[test]
fn every_key_is_read() {
    assert_eq!(VmConfig::from_json(FULL).unwrap(), full());
}

#[test]
fn what_is_written_is_read_back_the_same() {
    for config in [full(), VmConfig::default()] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(VmConfig::from_json(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn the_listed_keys_are_the_fields() {
    let written = serde_json::to_value(full()).unwrap();
    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let sorted = |keys: &[&str]| {
        let mut keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&written), sorted(VmConfig::KEYS));
    assert_eq!(keys(&written["memory"]), sorted(MemoryConfig::KEYS));
    assert_eq!(keys(&written["balloon"]), sorted(BalloonConfig::KEYS));
    assert_eq!(keys(&written["track"]), sorted(TrackConfig::KEYS));
    assert_eq!(keys(&written["disks"][0]), sorted(DiskConfig::KEYS));
}

#[test]
fn memory_and_disks_may_be_written_as_on_the_command_line() {
    let config =
        VmConfig::from_json(r#"{ "memory": "1G,backing=memfd", "disks": ["a,,b.img,ro"] }"#).unwrap();
    assert_eq!(config.memory, MemoryConfig { size: 1 << 30, backing: Backing::Memfd, ..Default::default() });
    assert_eq!(config.disks, [DiskConfig { path: "a,b.img".into(), read_only: true }]);
}

#[test]
fn a_balloon_may_be_written_as_on_the_command_line() {
    for (text, balloon) in [
        (r#""""#, BalloonConfig::default()),
        ("{}", BalloonConfig::default()),
        (r#""64M,report=on""#, BalloonConfig { size: 64 << 20, report: true, ..Default::default() }),
    ] {
        let config = VmConfig::from_json(&format!(r#"{{ "balloon": {text} }}"#)).unwrap();
        assert_eq!(config.balloon, Some(balloon), "{text}");
    }
}

#[test]
fn sizes_may_be_numbers_of_bytes() {
    let config = VmConfig::from_json(r#"{ "memory": { "size": 1073741824, "prefault": "on" } }"#).unwrap();
    assert_eq!(config.memory, MemoryConfig { size: 1 << 30, prefault: true, ..Default::default() });
    for size in ["-1", "1.5", "null", "true", "\"many\"", "18446744073709551616"] {
        let message = refusal(&format!(r#"{{ "memory": {{ "size": {size} }} }}"#));
        assert!(message.contains("size"), "{message}");
        assert!(message.starts_with("line 1, column "), "{message}");
    }
}

#[test]
fn an_unknown_key_at_any_depth_names_its_place_and_the_nearest() {
    for (text, expected) in [
        (r#"{ "memroy": "1G" }"#, "unknown key \"memroy\" in the configuration: did you mean \"memory\"?"),
        (r#"{ "memory": { "blok": "2M" } }"#, "unknown key \"blok\" in memory: did you mean \"block\"?"),
        (
            r#"{ "disks": ["a", { "path": "b", "readonly": true }] }"#,
            "unknown key \"readonly\" in disks[1]: did you mean \"ro\"?",
        ),
        (
            r#"{ "balloon": { "deflate": true } }"#,
            "unknown key \"deflate\" in balloon: did you mean \"deflate-on-oom\"?",
        ),
        (r#"{ "memory": "1G,blok=2M" }"#, "unknown key \"blok\" in --memory: did you mean \"block\"?"),
    ] {
        let message = refusal(text);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_unknown_value_lists_the_valid_ones_and_says_where() {
    for (text, expected) in [
        (r#"{ "memory": { "backing": "memfs" } }"#, "anon, memfd, hugetlb, file:PATH or private:PATH"),
        (r#"{ "memory": { "block": "3M" } }"#, "auto, 4K, 64K, 2M, 32M or 1G"),
        (r#"{ "memory": { "prefault": "yes" } }"#, "on or off"),
        (r#"{ "console": "stdout" }"#, "stdio, pty, file:PATH or null"),
    ] {
        let message = refusal(text);
        assert!(message.contains(expected) && message.starts_with("line 1, column "), "{message}");
    }
}

#[test]
fn wrong_types_and_broken_json_are_refused_with_their_place() {
    for text in [
        "",
        "{",
        "{ \"cpus\": 1, \"cpus\": 2 }",
        "{ \"cpus\": \"4\" }",
        "{ \"cpus\": -1 }",
        "{ \"memory\": 1024 }",
        "{ \"disks\": \"a.img\" }",
        "{ \"disks\": [{}] }",
        "{} trailing",
    ] {
        let message = refusal(text);
        assert!(message.starts_with("line 1, column "), "{text}: {message}");
    }
}

#[test]
fn a_configuration_is_an_object() {
    for text in ["null", "[]", "[null, null, null, 4]", "\"1G\"", "1"] {
        assert!(matches!(VmConfig::from_json(text), Err(Error::NotAnObject)), "{text}");
    }
}
