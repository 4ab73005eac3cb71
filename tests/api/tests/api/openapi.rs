//! docs/openapi.json, held against the server: every route is in it, and every answer is as it says.

use std::collections::BTreeSet;
use std::path::Path;

use quire::api::route::ROUTES;
use quire::config::{Backing, BalloonConfig, BlockSize, DiskConfig, MemoryConfig, VmConfig};
use serde_json::{Value, json};

use api::client::{Api, Reply};

/// One operation of the description.
struct Operation {
    method: String,
    path: String,
    /// Schema and example of the body that it takes.
    body: Option<(Value, Value)>,
    responses: Value,
}

struct Description(Value);

impl Description {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        Self(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let body = operation.get("requestBody").map(|body| {
                    let content = &body["content"]["application/json"];
                    (content["schema"].clone(), content["example"].clone())
                });
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    body,
                    responses: operation["responses"].clone(),
                });
            }
        }
        operations
    }

    /// What `value` has against `schema`.
    fn errors(&self, schema: &Value, value: &Value) -> Vec<String> {
        // References are to the whole description.
        let mut root = schema.clone();
        root["components"] = self.0["components"].clone();
        let validator = jsonschema::draft202012::new(&root).unwrap();
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    /// The answer is one that the description has.
    #[track_caller]
    fn assert_described(&self, operation: &Operation, reply: &Reply) {
        let Operation { method, path, responses, .. } = operation;
        let mut response = &responses[reply.status.to_string()];
        assert!(!response.is_null(), "{method} {path} has no {} in the description: {reply:?}", reply.status);
        if let Some(reference) = response["$ref"].as_str() {
            response = self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        }
        match response["content"]["application/json"].get("schema") {
            None => assert!(reply.body.is_empty(), "{method} {path}: {reply:?}"),
            Some(schema) => {
                let errors = self.errors(schema, &reply.json());
                assert!(errors.is_empty(), "{method} {path}: {errors:#?}\n{:#}", reply.json());
            }
        }
    }
}

fn ask(api: &Api, operation: &Operation) -> Reply {
    let body = operation.body.as_ref().map_or(String::new(), |(_, example)| example.to_string());
    api.ask(&operation.method, &operation.path, &body)
}

/// A machine that can do all that there is.
fn complete() -> Api {
    let memory = MemoryConfig { size: 64 << 20, ..MemoryConfig::default() };
    let balloon = Some("stats=60,hint=on,report=on".parse::<BalloonConfig>().unwrap());
    let track = "dirty=on".parse().unwrap();
    let api = Api::of(VmConfig { memory, balloon, track, ..VmConfig::default() });
    api.machine.guest.drive();
    api
}

#[test]
fn the_description_has_every_route_and_no_other() {
    let described: BTreeSet<_> = Description::read()
        .operations()
        .into_iter()
        .map(|operation| (operation.path, operation.method, operation.body.is_some()))
        .collect();
    let served: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| (route.path.to_owned(), route.method.to_string(), route.takes_body))
        .collect();
    assert_eq!(described, served);
}

#[test]
fn every_answer_is_as_described() {
    let description = Description::read();
    let mut operations = description.operations();
    // What ends the machine comes last.
    operations.sort_by_key(|operation| operation.path == "/quire/stop");
    let api = complete();
    for operation in &operations {
        let reply = ask(&api, operation);
        description.assert_described(operation, &reply);
        // What can be done has been.
        let expected = operation.responses.as_object().unwrap().keys().next().unwrap();
        assert_eq!(&reply.status.to_string(), expected, "{} {}: {reply:?}", operation.method, operation.path);
    }
}

#[test]
fn every_refusal_is_as_described() {
    let description = Description::read();
    for operation in &description.operations() {
        let api = Api::start();
        let (method, path) = (&operation.method, &operation.path);
        let reply = api.ask(method, path, "{\"nonsense\": 1}");
        description.assert_described(operation, &reply);
        assert_eq!(reply.status, 400, "{method} {path} takes nonsense");
        if path.contains("balloon") {
            let reply = ask(&api, operation);
            description.assert_described(operation, &reply);
            assert_eq!(reply.status, 400, "{method} {path} needs no balloon");
        }
    }
}

#[test]
fn examples_are_valid_and_what_the_server_refuses_is_not() {
    let description = Description::read();
    let api = complete();
    for operation in &description.operations() {
        let Some((schema, example)) = &operation.body else { continue };
        let (method, path) = (&operation.method, &operation.path);
        assert_eq!(description.errors(schema, example), [""; 0], "{method} {path}");
        for (key, value) in example.as_object().unwrap() {
            let other = if value.is_number() { json!(-1) } else { json!([7]) };
            let mut wrong = example.clone();
            wrong[key] = other;
            assert!(!description.errors(schema, &wrong).is_empty(), "{method} {path} describes {wrong}");
            assert_eq!(
                api.ask(method, path, &wrong.to_string()).status,
                400,
                "{method} {path} takes {wrong}"
            );
        }
        let mut more = example.clone();
        more["nonsense"] = json!(1);
        assert!(!description.errors(schema, &more).is_empty(), "{method} {path} describes {more}");
        assert_eq!(api.ask(method, path, &more.to_string()).status, 400, "{method} {path} takes {more}");
    }
}

#[test]
fn every_kind_of_configuration_is_as_described() {
    let description = Description::read();
    let operations = description.operations();
    let operation = operations.iter().find(|operation| operation.path == "/vm/config").unwrap();
    for (backing, block) in [
        (Backing::Anon, BlockSize::Auto),
        (Backing::Memfd, BlockSize::Size2M),
        (Backing::File("ram".into()), BlockSize::Auto),
        (Backing::Hugetlb, BlockSize::Size2M),
        (Backing::Hugetlb, BlockSize::Size1G),
        (Backing::Hugetlb, BlockSize::Auto),
    ] {
        let config = VmConfig {
            kernel: Some("Image".into()),
            initrd: Some("initrd".into()),
            cmdline: Some("quiet".into()),
            memory: MemoryConfig { size: 1 << 30, backing, block, ..MemoryConfig::default() },
            disks: vec![DiskConfig { path: "a.img".into(), read_only: true }],
            balloon: Some(BalloonConfig::default()),
            track: "dirty=on".parse().unwrap(),
            api_sock: Some("api.sock".into()),
            ..VmConfig::default()
        };
        let reply = Api::of(config).get("/vm/config");
        assert_eq!(reply.status, 200);
        description.assert_described(operation, &reply);
    }
}

#[test]
fn the_description_is_of_this_version() {
    assert_eq!(Description::read().0["info"]["version"], env!("CARGO_PKG_VERSION"));
}
