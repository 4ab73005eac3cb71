//! The steps.

use std::process::Command;
use std::time::{Duration, Instant};

use lab_init::wire::Start;
use serde_json::Value;

use super::build::{Parts as Built, build};
use super::here;
use super::libtest::{Reader, Verdict};
use super::tally::{End, Tally};
use crate::error::{Error, Result};
use crate::host::{Host, Parts, Shape, Stream};
use crate::kernel::Kind;
use crate::run;
use crate::setup::Setup;
use crate::tool;
use crate::toolchain::Toolchain;
use crate::workspace::{Program, Workspace, cargo};

/// The steps, by the names that select them.
const STEPS: [&str; 10] =
    ["fmt", "clippy", "unit", "loom", "doc", "links", "arm64", "monitor", "e2e", "advisories"];

/// How long a test program may say nothing. The slowest scenario on a busy machine needs a third.
const SILENCE: Duration = Duration::from_secs(300);
/// How long cargo may say nothing: one crate at a time, a linker with whole-program optimisation.
const CARGO_SILENCE: Duration = Duration::from_secs(900);
/// RAM and CPUs of the hosts that scenarios run on.
const MEMORY: &str = "6G";
const CPUS: u32 = 2;

/// One run of the checks.
pub(crate) struct Check<'a> {
    pub(super) setup: &'a Setup,
    pub(super) workspace: Workspace,
    filter: Option<String>,
    kernel: Option<Kind>,
    release: bool,
    pub(super) tally: Tally,
}

impl<'a> Check<'a> {
    /// Everything, or what the filter selects, on all hosts or the one with this kernel; with `quire` as users get it, if
    /// that is asked for.
    ///
    /// # Errors
    /// Where the workspace can't be found.
    pub(crate) fn new(
        setup: &'a Setup,
        filter: Option<String>,
        kernel: Option<Kind>,
        release: bool,
    ) -> Result<Check<'a>> {
        Ok(Check { setup, workspace: Workspace::find()?, filter, kernel, release, tally: Tally::new() })
    }

    /// Runs the steps; the exit code.
    ///
    /// # Errors
    /// None that a step has: those count as failures.
    pub(crate) fn run(mut self) -> Result<i32> {
        if self.selected("fmt") {
            let mut command = cargo();
            // The names of the files say enough; `cargo fmt` does the rest.
            command.args(["fmt", "--all", "--check", "--", "-l"]);
            self.lint("fmt", "is everything formatted", command);
        }
        if self.selected("clippy") {
            let mut command = cargo();
            command.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
            self.lint("clippy", "lints, for this machine", command);
        }
        if self.selected("unit") {
            self.unit();
        }
        if self.selected("loom") {
            self.loom();
        }
        if self.selected("doc") {
            self.doc();
        }
        if self.selected("links") {
            let mut command = cargo();
            command.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
            command.env("RUSTDOCFLAGS", "-D warnings");
            self.lint("links", "does the documentation name what is there", command);
        }
        if self.selected("advisories") {
            self.advisories();
        }
        if ["clippy", "arm64", "monitor", "e2e"].iter().any(|step| self.selected(step)) {
            self.on_arm64();
        }
        Ok(self.tally.finish())
    }

    /// Whether a step runs: all without a filter, one by its name; a filter that is no step's
    /// name is for tests, and the steps that have tests run.
    fn selected(&self, step: &str) -> bool {
        match &self.filter {
            None => true,
            Some(filter) if STEPS.contains(&filter.as_str()) => filter == step,
            Some(_) => ["unit", "loom", "doc", "arm64", "e2e"].contains(&step),
        }
    }

    /// The part of a test's name that is looked for.
    fn test_filter(&self) -> Option<String> {
        self.filter.clone().filter(|filter| !STEPS.contains(&filter.as_str()))
    }

    /// A command whose success is the check.
    fn lint(&mut self, name: &str, what: &str, mut command: Command) {
        self.tally.step(name, what);
        let mut text = Vec::new();
        command.current_dir(&self.workspace.root);
        match here::run(&mut command, CARGO_SILENCE, &mut |_, piece| text.extend_from_slice(piece)) {
            Ok(End::Code(0)) => self.tally.pass(),
            Ok(_) => self.tally.fail(name, &String::from_utf8_lossy(&text)),
            Err(error) => self.tally.fail(name, &error.to_string()),
        }
    }

    fn unit(&mut self) {
        self.tally.step("unit", "unit tests, on this machine");
        let mut command = cargo();
        command.current_dir(&self.workspace.root);
        command.args(["test", "--quiet", "--workspace", "--exclude", "e2e", "--no-run"]);
        match self.workspace.programs(&mut command) {
            Ok(programs) => {
                for program in programs.iter().filter(|program| program.test) {
                    self.program_here(program, &[], &[]);
                }
            }
            Err(error) => self.tally.fail("unit: build", &error.to_string()),
        }
    }

    /// The tests that need another kind of atomics than the rest, and so a build of their own.
    fn loom(&mut self) {
        self.tally.step("loom", "every interleaving of the fault side of stage2");
        let mut command = cargo();
        command.current_dir(&self.workspace.root).env("RUSTFLAGS", "--cfg loom");
        command.env("CARGO_TARGET_DIR", self.workspace.target.join("loom"));
        command.args(["test", "--release", "--package", "stage2", "--test", "loom", "--"]);
        command.args(self.test_filter());
        self.watch_here("stage2/loom", &mut command, CARGO_SILENCE);
    }

    fn doc(&mut self) {
        self.tally.step("doc", "examples in the documentation");
        let mut command = cargo();
        command.current_dir(&self.workspace.root).args([
            "test",
            "--workspace",
            "--exclude",
            "e2e",
            "--doc",
            "--",
        ]);
        command.args(self.test_filter());
        self.watch_here("doc", &mut command, CARGO_SILENCE);
    }

    /// Known bugs in what we depend on: where a tool and its database are at hand.
    fn advisories(&mut self) {
        self.tally.step("advisories", "published bugs of dependencies");
        if tool::find("cargo-audit").is_none() {
            let why =
                "cargo-audit is not installed (cargo install cargo-audit; it fetches the RustSec database)";
            return self.tally.skip("advisories", why);
        }
        let mut text = Vec::new();
        let mut complaint = Vec::new();
        let mut command = cargo();
        command.current_dir(&self.workspace.root).args(["audit", "--json"]);
        let end = here::run(&mut command, CARGO_SILENCE, &mut |stream, piece| match stream {
            Stream::Output => text.extend_from_slice(piece),
            Stream::Error => complaint.extend_from_slice(piece),
        });
        let report: Option<Value> = serde_json::from_slice(&text).ok();
        let found = report.as_ref().and_then(|report| report["vulnerabilities"]["found"].as_bool());
        match (end, found) {
            (Ok(_), Some(false)) => self.tally.pass(),
            (Ok(_), Some(true)) => self.tally.fail("advisories", &String::from_utf8_lossy(&text)),
            _ => {
                let why = String::from_utf8_lossy(&complaint);
                let why = why.lines().last().unwrap_or("it printed no report");
                self.tally.skip("advisories", &format!("cargo-audit could not check: {why}"));
            }
        }
    }

    /// What needs arm64: lints for it, and tests on a host with KVM.
    fn on_arm64(&mut self) {
        if run::native() {
            return self.scenarios_here();
        }
        let toolchain = match Toolchain::set_up(self.setup) {
            Ok(toolchain) => toolchain,
            Err(error) => return self.tally.fail("arm64: toolchain", &error.to_string()),
        };
        if !["clippy", "arm64", "e2e"].iter().any(|step| self.selected(step)) {
            let image = self.workspace.monitor(&toolchain);
            return self.monitor(image);
        }
        self.tally.step("arm64", "building quire and the tests for arm64, with lints");
        let built = match build(&self.workspace, Some(&toolchain), self.release) {
            Ok(built) => built,
            Err(error) => return self.tally.fail("arm64: build", &error.to_string()),
        };
        if self.selected("clippy") {
            self.lints_of_arm64(&toolchain, &built);
        }
        if self.selected("monitor") {
            self.monitor(Ok(built.monitor.clone()));
        }
        for kind in Kind::ALL {
            self.on_host(kind, &toolchain, &built);
        }
    }

    fn lints_of_arm64(&mut self, toolchain: &Toolchain, built: &Built) {
        const NAME: &str = "clippy (arm64)";
        let warnings: String = built.warnings.iter().map(String::as_str).collect();
        if toolchain.clippy.is_none() {
            self.tally.skip(NAME, "clippy-driver is not installed (rustup component add clippy)");
        } else if warnings.is_empty() {
            self.tally.pass();
        } else {
            self.tally.fail(NAME, &warnings);
        }
    }

    /// On a real host: the unit tests ran there already.
    fn scenarios_here(&mut self) {
        if !self.selected("e2e") {
            return;
        }
        self.tally.step("e2e", "scenarios, on this machine's KVM");
        let built = match self.guests_here().and_then(|()| build(&self.workspace, None, self.release)) {
            Ok(built) => built,
            Err(error) => return self.tally.fail("e2e: build", &error.to_string()),
        };
        let env = self.environment(&built);
        for program in built.programs.iter().filter(|program| program.package == "e2e" && program.has_tests())
        {
            self.program_here(program, &["--test-threads=1"], &env);
        }
    }

    /// What scenarios are told of where things are.
    fn environment(&self, built: &Built) -> Vec<(String, String)> {
        let mut env = run::environment(self.setup);
        env.push(("QUIRE_BIN".into(), built.quire.display().to_string()));
        env.push(("QUIRE_FAULTS_BIN".into(), built.faults.display().to_string()));
        env
    }

    /// The guests that scenarios start.
    fn guests_here(&self) -> Result<()> {
        self.setup.busybox()?;
        Kind::ALL.iter().try_for_each(|kind| crate::kernel::Kernel::set_up(self.setup, *kind).map(drop))
    }

    /// Tests in one emulated host: on the newest kernel all, on the others the scenarios that
    /// their package names for them.
    fn on_host(&mut self, kind: Kind, toolchain: &Toolchain, built: &Built) {
        let main = self.kernel.unwrap_or(Kind::New) == kind;
        if self.kernel.is_some_and(|only| only != kind) || (!main && self.test_filter().is_some()) {
            return;
        }
        let chosen = self.workspace.list("e2e", kind.name());
        let wanted = |program: &&Program| {
            let scenario = program.package == "e2e";
            let here = main || (scenario && chosen.as_ref().is_none_or(|list| list.contains(&program.name)));
            program.has_tests() && here && self.selected(if scenario { "e2e" } else { "arm64" })
        };
        let wanted: Vec<Program> = built.programs.iter().filter(wanted).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        self.tally.step(&format!("host {}", kind.name()), "booting an emulated arm64 KVM host");
        let parts = self.guests_here().and_then(|()| match &built.init {
            Some(init) => self.setup.parts_with(init.clone(), kind),
            None => self.setup.parts(&self.workspace, toolchain, kind),
        });
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => return self.tally.fail(&format!("host {}", kind.name()), &error.to_string()),
        };
        let mut host = None;
        for program in &wanted {
            let name = format!("{}/{} on {}", program.package, program.name, kind.name());
            if let Err(error) = self.program_in(&mut host, &parts, program, built, &name) {
                self.tally.fail(&name, &error.to_string());
                // The next program gets a fresh host.
                host = None;
            }
        }
    }

    fn program_in(
        &mut self,
        host: &mut Option<Host>,
        parts: &Parts,
        program: &Program,
        built: &Built,
        name: &str,
    ) -> Result<()> {
        let host = match host {
            Some(host) => host,
            None => host.insert(self.boot(parts)?),
        };
        let scenario = program.package == "e2e";
        let mut args = vec![format!("--test-threads={}", if scenario { 1 } else { CPUS })];
        args.extend(self.test_filter());
        let mut env = self.environment(built);
        env.push(("QUIRE_HOST_KERNEL".into(), parts.kernel.kind.name().into()));
        env.push(("CARGO_MANIFEST_DIR".into(), program.folder.display().to_string()));
        let start = Start {
            program: program.path.display().to_string(),
            args,
            env,
            folder: program.folder.display().to_string(),
            terminal: None,
        };
        let (mut reader, since) = (Reader::default(), Instant::now());
        let mut last = since;
        let (_, failures) = self.tally.counted();
        let said = host.said();
        let end = host.run(start, SILENCE, &mut |stream, piece| {
            feed(&mut reader, scenario.then_some(&mut last), stream, piece)
        })?;
        let end = end.map_or(End::Silent(SILENCE), |exit| End::Code(exit.code()));
        self.count(name, &reader, &end, since);
        if self.tally.counted().1 > failures {
            // A process that the kernel has killed can't say so itself.
            self.tally.remark("the host's kernel said meanwhile", &host.said_since(said));
        }
        Ok(())
    }

    fn boot(&self, parts: &Parts) -> Result<Host> {
        let (memory, append) = (MEMORY.into(), String::new());
        let shape = Shape { memory, cpus: CPUS, deterministic: false, append, still: true };
        let folders = [self.workspace.root.clone(), self.workspace.target.clone(), self.setup.guests()];
        Host::boot(parts, &shape, &folders)
    }

    fn program_here(&mut self, program: &Program, args: &[&str], env: &[(String, String)]) {
        let mut command = Command::new(&program.path);
        command.args(args).args(self.test_filter()).envs(env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        self.watch_here(&format!("{}/{}", program.package, program.name), &mut command, SILENCE);
    }

    fn watch_here(&mut self, name: &str, command: &mut Command, silence: Duration) {
        let (mut reader, since) = (Reader::default(), Instant::now());
        match here::run(command, silence, &mut |stream, piece| feed(&mut reader, None, stream, piece)) {
            Ok(end) => self.count(name, &reader, &end, since),
            Err(Error::Spawn { program, source }) => {
                self.tally.fail(name, &format!("cannot run {program}: {source}"));
            }
            Err(error) => self.tally.fail(name, &error.to_string()),
        }
    }

    fn count(&mut self, name: &str, reader: &Reader, end: &End, since: Instant) {
        let before = self.tally.counted();
        self.tally.program(name, reader, end);
        let (passed, failed) = self.tally.counted();
        if (passed, failed) != before {
            let (passed, failed) = (passed - before.0, failed - before.1);
            println!("        {name}: {passed} passed, {failed} failed, {} s", since.elapsed().as_secs());
        }
        let ignored = reader.count(Verdict::Ignored);
        if ignored > 0 {
            self.tally.skip(name, &format!("{ignored} tests say that they are to be ignored"));
        }
    }
}

/// Takes a piece of a test program's output; scenarios are slow enough to be told one by one, with what each took.
fn feed(reader: &mut Reader, tell: Option<&mut Instant>, stream: Stream, piece: &[u8]) {
    if stream == Stream::Error {
        return reader.feed_error(piece);
    }
    let ended = reader.feed(piece);
    let Some(since) = tell else { return };
    for (test, verdict) in ended {
        println!("        {test}: {verdict:?}, {} s", since.elapsed().as_secs());
        *since = Instant::now();
    }
}
