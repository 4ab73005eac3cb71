//! Clients that send too much, too little, nonsense or nothing, and do not read.

use std::io::{BufReader, Read, Write};

use api::client::{Api, read_reply, request};

/// Whatever others did, this is answered.
#[track_caller]
fn assert_alive(api: &Api) {
    assert_eq!(api.get("/").status, 200);
    api.machine.wait_for_steps();
}

#[test]
fn garbage_ends_its_connection_and_nothing_else() {
    let api = Api::start();
    let long = vec![b'x'; 1 << 20];
    for garbage in
        [&b"\0\x01\x02\x03\r\n\r\n"[..], b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &long]
    {
        let mut stream = api.connect();
        // The server may hang up before it has all.
        let _ = stream.write_all(garbage);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
        assert_alive(&api);
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let api = Api::start();
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Fill: {}\r\n\r\n", "x".repeat(64 << 10));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: y\r\n".repeat(100));
    for head in [large, many] {
        let mut stream = api.connect();
        let _ = stream.write_all(head.as_bytes());
        let reply = read_reply(&mut BufReader::new(stream));
        assert!(reply.is_none_or(|reply| reply.status == 431), "it was taken");
        assert_alive(&api);
    }
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let api = Api::start();
    let mut stream = api.connect();
    stream.write_all(b"PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n{").unwrap();
    let reply = read_reply(&mut BufReader::new(stream)).unwrap();
    assert!(reply.fault().contains("the body is larger than 51200 bytes"));
    assert_alive(&api);
}

#[test]
fn a_body_in_chunks_has_the_same_bound() {
    let api = Api::start();
    let mut stream = api.connect();
    stream.write_all(b"PATCH /vm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    for _ in 0..20 {
        // The server may hang up before it has all.
        let _ = stream.write_all(chunk.as_bytes());
    }
    if let Some(reply) = read_reply(&mut BufReader::new(stream)) {
        assert!(reply.fault().contains("the body is larger than 51200 bytes"));
    }
    assert_alive(&api);
}

#[test]
fn half_a_request_keeps_nobody_else_waiting() {
    let api = Api::start();
    let halves = [
        "",
        "G",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: x\r\n",
        "PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"st",
    ];
    let _open: Vec<_> = halves
        .iter()
        .map(|half| {
            let mut stream = api.connect();
            stream.write_all(half.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_alive(&api);
}

#[test]
fn a_hundred_connections_keep_nobody_out() {
    let api = Api::start();
    let mut idle: Vec<_> = (0..100).map(|_| api.connect()).collect();
    for _ in 0..10 {
        assert_alive(&api);
    }
    // The oldest have made room.
    assert_eq!(idle[0].read(&mut [0; 1]).unwrap(), 0);
    // The newest have not.
    let mut newest = idle.pop().unwrap();
    newest.write_all(request("GET", "/version", "").as_bytes()).unwrap();
    assert_eq!(read_reply(&mut BufReader::new(newest)).unwrap().status, 200);
}

#[test]
fn a_client_that_never_reads_keeps_nobody_else_waiting() {
    let api = Api::start();
    let mut stream = api.connect();
    stream.set_nonblocking(true).unwrap();
    let request = request("GET", "/vm/config", "");
    // Until neither side takes any more, or the server has hung up.
    while stream.write_all(request.as_bytes()).is_ok() {}
    for _ in 0..10 {
        assert_alive(&api);
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_is_no_trouble() {
    let api = Api::start();
    for _ in 0..100 {
        let mut stream = api.connect();
        stream.write_all(request("PATCH", "/vm", "{\"state\": \"Resumed\"}").as_bytes()).unwrap();
    }
    assert_alive(&api);
}

#[test]
fn one_connection_serves_many_requests_and_survives_a_fault() {
    let api = Api::start();
    let mut stream = BufReader::new(api.connect());
    for _ in 0..50 {
        let both = [request("GET", "/", ""), request("PATCH", "/vm", "{}")].concat();
        stream.get_mut().write_all(both.as_bytes()).unwrap();
        assert_eq!(read_reply(&mut stream).unwrap().status, 200);
        assert!(read_reply(&mut stream).unwrap().fault().contains("missing field"));
    }
}

#[test]
fn a_server_that_ends_answers_nobody_any_more_and_leaves_no_file() {
    let mut api = Api::start();
    // Neither is waited for.
    let mut idle = api.connect();
    let mut half = api.connect();
    half.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_alive(&api);
    api.close();
    assert!(!api.path.exists());
    assert_eq!(idle.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(half.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn who_keeps_the_server_waiting_is_hung_up_on() {
    let api = Api::start();
    let connect = || BufReader::new(api.connect());
    let (mut silent, mut served, mut half) = (connect(), connect(), connect());
    served.get_mut().write_all(request("GET", "/", "").as_bytes()).unwrap();
    assert_eq!(read_reply(&mut served).unwrap().status, 200);
    half.get_mut().write_all(b"PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{").unwrap();
    assert!(read_reply(&mut half).unwrap().fault().contains("did not come within"));
    for stream in [&mut silent, &mut served, &mut half] {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}
