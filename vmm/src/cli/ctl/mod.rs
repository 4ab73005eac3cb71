//! `quire ctl`: what can be asked of a running VM over its API.
//!
//! Principles: one subcommand is one thing to ask; `--json` prints what the API said, as it said it; what
//! the API refuses is said in its own words.
//!
//! | module | noun |
//! |---|---|
//! | [`client`] | one request, one answer, or why there is none |
//! | `balloon` | a balloon on its way to a new size |
//! | `show` | what a person reads |

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::print::print;
use crate::config::{Size, TrackConfig, Watch};
use crate::machine::tracking::{Aged, Collected};
use crate::memory::ledger::Check;

mod balloon;
pub mod client;
mod show;

use client::Client;

/// The options of `quire ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The socket that `quire run --api-sock` made.
    #[arg(long, value_name = "PATH", global = true)]
    api_sock: Option<PathBuf>,
    /// Print what the API answers, as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Whether the guest runs, and what it has.
    Status,
    /// Take all vCPUs out of the guest; its time stands still.
    Pause,
    /// Let them go on.
    Resume,
    /// Move the balloon to SIZE, and watch the guest follow.
    Balloon {
        /// Bytes, or with the suffix K, M, G or T; a multiple of 4K.
        size: Size,
        /// Give up when the guest gets no further for so long.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        patience: u64,
    },
    /// What the guest says about its memory.
    Stats,
    /// What has been given back to the host, and how long it took, as JSON.
    Release,
    /// Give back parts of blocks, too.
    Settle,
    /// How the guest's memory is made up.
    Map,
    /// Hold the ledger against the host: the exit code is 1 where they do not agree.
    Check,
    /// What is tracked of the guest's use of its memory; or track something else from now on.
    Track {
        /// Track what the guest and its devices write, in KVM's dirty log.
        #[arg(long, value_name = "on|off", value_parser = PossibleValuesParser::new(["on", "off"]).map(|word| word == "on"))]
        dirty: Option<bool>,
        /// What sees pages used: their presence in the page tables (memfd and file), first uses by userfaultfd
        /// (anon and memfd), or DAMON (for root).
        #[arg(long, value_name = "off|presence|faults|damon")]
        young: Option<Watch>,
    },
    /// How much was written since the last time, or since the dirty log is on; it is clean from then on.
    Collect,
    /// How much was used since the last time; it is old from then on.
    Age,
    /// Stop the guest in order, as SIGTERM does.
    Stop,
}

/// Why something could not be asked, or was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket is named.
    #[error("which VM? Add --api-sock PATH, the path that `quire run --api-sock` was given")]
    NoPath,
    /// The API did not do it.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The guest does not follow.
    #[error(
        "the balloon holds {actual} of {target}, and the guest got no further in {} seconds: {advice}",
        patience.as_secs()
    )]
    Stuck {
        /// What it holds.
        actual: Size,
        /// What was asked for.
        target: Size,
        /// How long was waited.
        patience: Duration,
        /// What may be behind it.
        advice: &'static str,
    },
    /// Somebody else asked for another size.
    #[error("another request asked for a balloon of {target} before it reached {wanted}")]
    Overtaken {
        /// What it is now.
        target: Size,
        /// What we asked for.
        wanted: Size,
    },
    /// Standard output takes nothing.
    #[error("can't write the answer: {0}")]
    Write(#[from] io::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        if matches!(self, Self::NoPath) { 2 } else { 1 }
    }
}

impl CtlArgs {
    /// Asks, and prints the answer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(&self) -> Result<ExitCode, Error> {
        let client = Client::new(self.api_sock.as_deref().ok_or(Error::NoPath)?)?;
        match &self.what {
            What::Status => self.status(&client)?,
            What::Pause => self.change(&client, "Paused", "the guest is paused")?,
            What::Resume => self.change(&client, "Resumed", "the guest goes on")?,
            What::Balloon { size, patience } => {
                let patience = Duration::from_secs(*patience);
                let standing = balloon::resize(&client, *size, patience, self.json)?;
                self.print(&standing, || format!("the balloon holds {}\n", Size(standing.actual)))?;
            }
            What::Stats => {
                let document: Map<String, Value> = client.get("/balloon/statistics")?;
                self.print(&document, || show::statistics(&document))?;
            }
            What::Release => {
                let document: Value = client.get("/quire/release")?;
                self.print(&document, || format!("{document:#}\n"))?;
            }
            What::Settle => {
                client.put("/quire/settle")?;
                self.done("parts of blocks have been given back")?;
            }
            What::Map => {
                let map: crate::report::Map = client.get("/quire/map")?;
                self.print(&map, || map.to_string())?;
            }
            What::Check => {
                let document: Value = client.get("/quire/check")?;
                let check: Check = serde_json::from_value(document.clone()).map_err(io::Error::from)?;
                self.print(&document, || show::check(&check))?;
                return Ok(if check.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            What::Track { dirty, young } => {
                let change: Map<String, Value> = [
                    dirty.map(|on| ("dirty".into(), json!(on))),
                    young.map(|how| ("young".into(), json!(how))),
                ]
                .into_iter()
                .flatten()
                .collect();
                if !change.is_empty() {
                    client.patch("/quire/track", &Value::Object(change))?;
                }
                let track: TrackConfig = client.get("/quire/track")?;
                self.print(&track, || show::track(&track))?;
            }
            What::Collect => {
                let collected: Collected = client.take("/quire/collect")?;
                self.print(&collected, || show::collected(&collected))?;
            }
            What::Age => {
                let aged: Aged = client.take("/quire/age")?;
                self.print(&aged, || show::aged(&aged))?;
            }
            What::Stop => {
                client.put("/quire/stop")?;
                self.done("the guest is being stopped")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn status(&self, client: &Client) -> Result<(), Error> {
        let root: Value = client.get("/")?;
        let config: Value = client.get("/vm/config")?;
        let balloon = match config.get("balloon") {
            None => None,
            Some(_) => Some(client.get::<balloon::Standing>("/quire/balloon")?),
        };
        let document = json!({
            "id": root["id"],
            "state": root["state"],
            "vmm_version": root["vmm_version"],
            "config": config["quire"],
            "balloon": balloon,
        });
        self.print(&document, || show::status(&root, &config, balloon.as_ref()))
    }

    fn change(&self, client: &Client, state: &str, words: &str) -> Result<(), Error> {
        client.patch("/vm", &json!({ "state": state }))?;
        self.done(words)
    }

    /// What has no document for an answer.
    fn done(&self, words: &str) -> Result<(), Error> {
        if !self.json {
            print(&format!("{words}\n"))?;
        }
        Ok(())
    }

    fn print(&self, document: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        let text = if self.json {
            serde_json::to_string_pretty(document).map_err(io::Error::from)? + "\n"
        } else {
            text()
        };
        print(&text)?;
        Ok(())
    }
}

/// `Running`, `Paused` or `Not started`.
fn state(client: &Client) -> Result<String, Error> {
    let root: Value = client.get("/")?;
    Ok(root["state"].as_str().unwrap_or_default().to_owned())
}
