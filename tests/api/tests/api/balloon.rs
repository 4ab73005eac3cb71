//! The balloon's routes: in Firecracker's shapes, and ours.

use quire::config::{BalloonConfig, MemoryConfig, VmConfig};
use serde_json::json;
use vm_memory::{Bytes, GuestAddress};

use api::client::Api;
use api::guest::BASE;

const MIB: u64 = 1 << 20;

fn with(balloon: &str) -> Api {
    let memory = MemoryConfig { size: 64 * MIB, ..MemoryConfig::default() };
    let balloon = Some(balloon.parse::<BalloonConfig>().unwrap());
    Api::of(VmConfig { memory, balloon, ..VmConfig::default() })
}

fn driven(balloon: &str) -> Api {
    let api = with(balloon);
    api.machine.guest.drive();
    api
}

#[test]
fn a_balloon_is_shown_as_firecracker_does() {
    let api = driven("size=16M,stats=5,report=on,deflate-on-oom=on");
    let expected = json!({
        "amount_mib": 16, "deflate_on_oom": true, "stats_polling_interval_s": 5,
        "free_page_hinting": false, "free_page_reporting": true
    });
    assert_eq!(api.get("/balloon").json(), expected);
    assert_eq!(api.get("/vm/config").json()["balloon"], expected);
}

#[test]
fn a_new_target_is_taken_and_shown() {
    let api = driven("");
    assert_eq!(api.ask("PATCH", "/balloon", "{\"amount_mib\": 24}").status, 204);
    assert_eq!(api.machine.guest.balloon().target(), 24 * MIB);
    api.machine.guest.say_actual(3 * MIB);
    let expected = json!({ "memory": 64 * MIB, "target": 24 * MIB, "actual": 3 * MIB, "active": true });
    assert_eq!(api.get("/quire/balloon").json(), expected);
    assert_eq!(api.get("/balloon").json()["amount_mib"], 24);
    assert_eq!(api.get("/vm/config").json()["balloon"]["amount_mib"], 24);
    // The same once more is so already.
    assert_eq!(api.ask("PATCH", "/balloon", "{\"amount_mib\": 24}").status, 204);
}

#[test]
fn our_target_takes_bytes_and_what_the_command_line_takes() {
    let api = driven("");
    for (size, bytes) in [("\"8M\"", 8 * MIB), ("4096", 4096), ("\"64M\"", 64 * MIB), ("0", 0)] {
        let reply = api.ask("PATCH", "/quire/balloon", &format!("{{\"size\": {size}}}"));
        assert_eq!(reply.status, 204, "{reply:?}");
        assert_eq!(api.machine.guest.balloon().target(), bytes);
    }
    for (size, expected) in [
        ("\"8X\"", "\"8X\" is not a size"),
        ("4097", "not a multiple of 4K"),
        ("-1", "invalid"),
        ("\"65M\"", "a balloon of 65M is larger than the guest's memory of 64M"),
    ] {
        let message = api.ask("PATCH", "/quire/balloon", &format!("{{\"size\": {size}}}")).fault();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(api.machine.guest.balloon().target(), 0);
}

#[test]
fn a_balloon_larger_than_memory_names_both() {
    let api = driven("");
    let message = api.ask("PATCH", "/balloon", "{\"amount_mib\": 65}").fault();
    assert_eq!(message, "a balloon of 65M is larger than the guest's memory of 64M");
    for amount in [1u64 << 44, u64::MAX] {
        let message = api.ask("PATCH", "/balloon", &format!("{{\"amount_mib\": {amount}}}")).fault();
        assert!(message.contains("does not fit into 64 bits"), "{message}");
    }
    assert_eq!(api.machine.guest.balloon().target(), 0);
}

#[test]
fn without_a_balloon_every_request_for_it_says_how_to_get_one() {
    let api = Api::start();
    for (method, path, body) in [
        ("GET", "/balloon", ""),
        ("PUT", "/balloon", "{\"amount_mib\": 1, \"deflate_on_oom\": false}"),
        ("PATCH", "/balloon", "{\"amount_mib\": 1}"),
        ("GET", "/balloon/statistics", ""),
        ("PATCH", "/balloon/statistics", "{\"stats_polling_interval_s\": 1}"),
        ("PATCH", "/balloon/hinting/start", ""),
        ("PATCH", "/balloon/hinting/stop", ""),
        ("GET", "/balloon/hinting/status", ""),
        ("GET", "/quire/balloon", ""),
        ("PATCH", "/quire/balloon", "{\"size\": \"1M\"}"),
    ] {
        let message = api.ask(method, path, body).fault();
        assert!(message.contains("no balloon: start it with --balloon"), "{method} {path}: {message}");
    }
    assert!(api.get("/vm/config").json().get("balloon").is_none());
}

#[test]
fn before_the_guest_drives_the_balloon_it_can_not_be_asked() {
    let api = with("stats=1,hint=on");
    for (method, path, body) in [
        ("PATCH", "/balloon", "{\"amount_mib\": 1}"),
        ("PATCH", "/quire/balloon", "{\"size\": \"1M\"}"),
        ("GET", "/balloon/statistics", ""),
        ("PATCH", "/balloon/hinting/start", ""),
        ("PATCH", "/balloon/hinting/stop", ""),
    ] {
        let message = api.ask(method, path, body).fault();
        assert!(message.contains("the guest does not drive the balloon"), "{method} {path}: {message}");
    }
    // What is known without it is said.
    assert_eq!(api.get("/quire/balloon").json()["active"], false);
    assert_eq!(api.get("/balloon").status, 200);
}

#[test]
fn a_second_balloon_is_refused() {
    let api = driven("size=8M");
    let message = api.ask("PUT", "/balloon", "{\"amount_mib\": 8, \"deflate_on_oom\": false}").fault();
    assert!(message.contains("there from the start"), "{message}");
    assert_eq!(api.machine.guest.balloon().target(), 8 * MIB);
    let message = api.ask("PATCH", "/balloon", "{\"amount_mib\": 1, \"amount_mib\": 2}").fault();
    assert!(message.contains("duplicate field"), "{message}");
}

#[test]
fn statistics_say_where_the_balloon_stands_and_are_asked_for_more_often() {
    let api = driven("stats=30");
    api.machine.guest.say_actual(5 * MIB);
    let body = api.get("/balloon/statistics").json();
    assert_eq!(body["actual_pages"], 1280);
    assert_eq!(body["actual_mib"], 5);
    assert_eq!(body["target_pages"], 0);
    assert_eq!(api.ask("PATCH", "/balloon/statistics", "{\"stats_polling_interval_s\": 7}").status, 204);
    assert_eq!(api.get("/balloon").json()["stats_polling_interval_s"], 7);
    for (seconds, expected) in [(0, "can't be switched on or off"), (1u64 << 40, "are more than")] {
        let body = format!("{{\"stats_polling_interval_s\": {seconds}}}");
        let message = api.ask("PATCH", "/balloon/statistics", &body).fault();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn statistics_that_were_not_switched_on_say_how_to() {
    let api = driven("");
    assert!(api.get("/balloon/statistics").fault().contains("start with --balloon stats=SECONDS"));
    let message = api.ask("PATCH", "/balloon/statistics", "{\"stats_polling_interval_s\": 7}").fault();
    assert!(message.contains("can't be switched on or off"), "{message}");
}

#[test]
fn hinting_starts_shows_its_command_and_stops() {
    let api = driven("hint=on");
    assert_eq!(api.get("/balloon/hinting/status").json(), json!({ "host_cmd": 0, "guest_cmd": null }));
    for body in ["", "{}", "{\"acknowledge_on_stop\": false}"] {
        assert_eq!(api.ask("PATCH", "/balloon/hinting/start", body).status, 204, "{body}");
        assert!(api.get("/balloon/hinting/status").json()["host_cmd"].as_u64().unwrap() > 1);
    }
    assert_eq!(api.ask("PATCH", "/balloon/hinting/stop", "").status, 204);
    assert!(api.get("/balloon/hinting/status").json()["host_cmd"].as_u64().unwrap() <= 1);
    let message = api.ask("PATCH", "/balloon/hinting/start", "{\"acknowledge\": true}").fault();
    assert!(message.contains("did you mean \"acknowledge_on_stop\"?"), "{message}");
}

#[test]
fn hinting_that_was_not_switched_on_says_how_to() {
    let api = driven("");
    let message = api.ask("PATCH", "/balloon/hinting/start", "").fault();
    assert!(message.contains("start with --balloon hint=on"), "{message}");
    assert!(api.get("/balloon/hinting/status").fault().contains("hint=on"));
}

#[test]
fn what_was_released_is_counted_and_settled() {
    let api = driven("");
    let parts = &api.machine.guest.parts;
    let memory = api.machine.guest.ram.memory();
    memory.write_slice(&[1; 4096], GuestAddress(BASE + 32 * MIB)).unwrap();
    let page = BASE + 32 * MIB..BASE + 32 * MIB + 4096;
    parts.release.inflate(&[page], quire::memory::release::Contract::MustTell).unwrap();
    parts.release.work().unwrap();
    let body = api.get("/quire/release").json();
    assert_eq!(body["inflated"], 4096);
    assert_eq!(body["carried"], 4096);
    assert_eq!(body["discarded"], 0);
    assert_eq!(body["unit"], parts.release.unit());
    assert_eq!(api.ask("PUT", "/quire/settle", "").status, 204);
    let body = api.get("/quire/release").json();
    assert_eq!((body["carried"].as_u64(), body["discarded"].as_u64()), (Some(0), Some(4096)), "{body}");
}

#[test]
fn the_check_holds_and_says_what_it_has_looked_at() {
    let api = driven("");
    let body = api.get("/quire/check").json();
    assert_eq!(body["holds"], true, "{body}");
    assert_eq!(body["total"], 64 * MIB);
    assert_eq!(body["lost"], json!([]));
}
