//! What each route answers, and what it says to a request that is wrong.

use std::io::{BufReader, Write};

use quire::api::Server;
use quire::config::{Backing, BlockSize, DiskConfig, MemoryConfig, VmConfig};
use quire::machine::control::{Control, State};
use serde_json::json;

use api::client::{Api, read_reply, request};
use api::machine::End;

#[test]
fn the_root_says_who_answers_and_what_the_guest_does() {
    let api = Api::start();
    let reply = api.get("/");
    assert_eq!(reply.status, 200);
    assert!(reply.headers.to_ascii_lowercase().contains("content-type: application/json"));
    let body = reply.json();
    assert_eq!(body["state"], "Running");
    assert_eq!(body["app_name"], "Quire");
    assert_eq!(body["vmm_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(body["id"], format!("quire-{}", std::process::id()));
    assert_eq!(api.get("/version").json(), json!({ "quire_version": env!("CARGO_PKG_VERSION") }));
}

#[test]
fn the_configuration_has_firecrackers_shape_and_ours() {
    let config = VmConfig {
        kernel: Some("Image".into()),
        cmdline: Some("quiet".into()),
        cpus: 3,
        memory: MemoryConfig {
            size: 3 << 30,
            backing: Backing::Hugetlb,
            block: BlockSize::Size2M,
            ..MemoryConfig::default()
        },
        disks: vec![DiskConfig { path: "a.img".into(), read_only: true }],
        ..VmConfig::default()
    };
    let body = Api::of(config.clone()).get("/vm/config").json();
    assert_eq!(body["boot-source"], json!({ "kernel_image_path": "Image", "boot_args": "quiet" }));
    assert_eq!(body["machine-config"]["vcpu_count"], 3);
    assert_eq!(body["machine-config"]["mem_size_mib"], 3072);
    assert_eq!(body["machine-config"]["huge_pages"], "2M");
    assert_eq!(body["drives"][0]["path_on_host"], "a.img");
    assert_eq!(body["drives"][0]["is_read_only"], true);
    assert_eq!(VmConfig::from_json(&body["quire"].to_string()).unwrap(), config);
}

#[test]
fn pause_and_resume_are_a_change_of_state() {
    let api = Api::start();
    // Twice each: what is so already is left so.
    for _ in 0..2 {
        let reply = api.ask("PATCH", "/vm", "{\"state\": \"Paused\"}");
        assert_eq!((reply.status, reply.body.len()), (204, 0));
        assert_eq!(api.get("/").json()["state"], "Paused");
    }
    for _ in 0..2 {
        assert_eq!(api.ask("PATCH", "/vm", "{\"state\": \"Resumed\"}").status, 204);
        assert_eq!(api.get("/").json()["state"], "Running");
    }
    api.machine.wait_for_steps();
}

#[test]
fn stop_is_answered_and_stops_the_machine() {
    let api = Api::start();
    assert_eq!(api.ask("PATCH", "/vm", "{\"state\": \"Paused\"}").status, 204);
    assert_eq!(api.ask("PUT", "/quire/stop", "").status, 204);
    let Api { machine, .. } = api;
    assert_eq!(machine.join(), "asked");
}

#[test]
fn a_machine_that_has_ended_is_said_to_have() {
    let api = Api::start();
    api.machine.wish(End::PowerOff);
    let reply = loop {
        let reply = api.ask("PATCH", "/vm", "{\"state\": \"Resumed\"}");
        if reply.status != 204 {
            break reply;
        }
    };
    assert_eq!(reply.fault(), "the guest has ended");
}

#[test]
fn a_wrong_state_lists_the_right_ones() {
    let api = Api::start();
    let message = api.ask("PATCH", "/vm", "{\"state\": \"Frozen\"}").fault();
    assert!(message.contains("Frozen") && message.contains("`Paused` or `Resumed`"), "{message}");
    assert_eq!(api.machine.control.state(), State::Running);
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest() {
    let message = Api::start().ask("PATCH", "/vm", "{\"sate\": \"Paused\"}").fault();
    assert!(message.contains("unknown field \"sate\": did you mean \"state\"?"), "{message}");
}

#[test]
fn firecrackers_actions_are_refused_with_what_to_do_instead() {
    let api = Api::start();
    for (action, expected) in [
        ("InstanceStart", "started by `quire run`"),
        ("SendCtrlAltDel", "not supported on aarch64"),
        ("FlushMetrics", "no metrics file"),
        ("Explode", "unknown variant `Explode`"),
    ] {
        let message = api.ask("PUT", "/actions", &json!({ "action_type": action }).to_string()).fault();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn bad_json_is_refused_with_its_place() {
    let api = Api::start();
    for (body, expected) in [
        ("", "there is no body"),
        ("{", "line 1 column 1"),
        ("{\"state\": \"Paused\"", "EOF"),
        ("[\"Paused\"]", "no object"),
        ("{\"state\": \"Paused\", \"state\": \"Resumed\"}", "duplicate field"),
        ("{\"state\": 1}", "line 1 column"),
        ("\0\0", "line 1 column 1"),
    ] {
        let message = api.ask("PATCH", "/vm", body).fault();
        assert!(message.contains(expected), "{body:?}: {message}");
    }
    assert_eq!(api.machine.control.state(), State::Running);
}

#[test]
fn a_wrong_method_names_the_right_one() {
    let api = Api::start();
    for method in ["GET", "PUT", "POST", "DELETE", "OPTIONS", "BREW"] {
        let message = api.ask(method, "/vm", "").fault();
        assert!(message.contains("use \"PATCH\""), "{message}");
    }
}

#[test]
fn a_wrong_path_names_the_nearest() {
    let api = Api::start();
    let message = api.get("/vm/confg").fault();
    assert!(message.contains("there is no path \"/vm/confg\": did you mean \"/vm/config\"?"), "{message}");
    for path in ["//", "/vm/", "/../vm/config", "/%76m", "/VM"] {
        assert!(api.get(path).fault().contains("there is no path"), "{path}");
    }
}

#[test]
fn a_body_or_a_query_where_none_belongs_is_refused() {
    let api = Api::start();
    assert!(api.ask("GET", "/", "{}").fault().contains("GET / takes no body"));
    assert!(api.get("/version?verbose=1").fault().contains("takes no query"));
    // An empty one says nothing.
    assert_eq!(api.get("/version?").status, 200);
}

#[test]
fn before_the_guest_has_started_the_api_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let control = Control::new(VmConfig::default()).unwrap();
    let _server = Server::start(&path, control).unwrap();
    let ask = |method: &str, path_: &str, body: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(request(method, path_, body).as_bytes()).unwrap();
        read_reply(&mut BufReader::new(stream)).unwrap()
    };
    assert_eq!(ask("GET", "/", "").json()["state"], "Not started");
    assert_eq!(ask("GET", "/vm/config", "").status, 200);
    for (method, path, body) in [
        ("PATCH", "/vm", "{\"state\": \"Paused\"}"),
        ("PATCH", "/vm", "{\"state\": \"Resumed\"}"),
        ("GET", "/balloon", ""),
        ("PATCH", "/balloon", "{\"amount_mib\": 1}"),
        ("GET", "/quire/map", ""),
        ("GET", "/quire/release", ""),
        ("GET", "/quire/check", ""),
        ("PUT", "/quire/settle", ""),
    ] {
        let message = ask(method, path, body).fault();
        assert!(message.contains("the guest has not started yet"), "{method} {path}: {message}");
    }
    // It may be stopped before it has: then it does not.
    assert_eq!(ask("PUT", "/quire/stop", "").status, 204);
}
