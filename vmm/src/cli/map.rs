//! `quire map`: how a guest's memory is made up, of a running VM or as it was written down.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::ctl::client::{self, Client};
use super::failure::Failure;
use super::print::print;
use crate::report::Map;

/// The largest map that is read from a file, in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Homes the cursor and clears what is below it (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[J";

/// The options of `quire map`.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// The socket that `quire run --api-sock` made.
    #[arg(long, value_name = "PATH", required_unless_present = "file")]
    api_sock: Option<PathBuf>,
    /// A map that was written with --json, instead of a running VM's; - is standard input.
    #[arg(value_name = "FILE", conflicts_with = "api_sock")]
    file: Option<PathBuf>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    /// Draw it again every so many seconds, until the VM ends.
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["json", "file"], value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

/// Why there is no map.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API gave none.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The file can't be read.
    #[error("can't read the map {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is no map.
    #[error("{} is no map: write one with `quire map --api-sock PATH --json`", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Standard output takes nothing.
    #[error("can't write the map: {0}")]
    Write(#[from] io::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        1
    }
}

impl MapArgs {
    /// Draws the map.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(&self) -> Result<ExitCode, Error> {
        match (&self.file, &self.api_sock) {
            (Some(file), _) => self.print(&read(file)?)?,
            (None, Some(path)) => self.live(&Client::new(path)?)?,
            // clap asks for one of them.
            (None, None) => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    fn live(&self, client: &Client) -> Result<(), Error> {
        let mut map: Map = client.get("/quire/map")?;
        let Some(seconds) = self.watch else { return self.print(&map) };
        let clear = if io::stdout().is_terminal() { CLEAR } else { "" };
        while print(&format!("{clear}{map}"))? {
            std::thread::sleep(Duration::from_secs(seconds));
            map = match client.get("/quire/map") {
                Ok(map) => map,
                Err(error) if error.is_end() => break,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(())
    }

    fn print(&self, map: &Map) -> Result<(), Error> {
        let text = if self.json {
            serde_json::to_string_pretty(map).map_err(io::Error::from)? + "\n"
        } else {
            map.to_string()
        };
        print(&text)?;
        Ok(())
    }
}

/// Reads a map from a file, which may be a device that never ends.
fn read(path: &Path) -> Result<Map, Error> {
    let source: io::Result<Box<dyn Read>> = match path {
        path if path == Path::new("-") => Ok(Box::new(io::stdin())),
        path => File::open(path).map(|file| Box::new(file) as _),
    };
    let mut text = String::new();
    source
        .and_then(|source| source.take(MAX_SIZE).read_to_string(&mut text))
        .map_err(|source| Error::Read { path: path.into(), source })?;
    serde_json::from_str(&text).map_err(|source| Error::Shape { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::config::MemoryConfig;
    use crate::memory::{GuestRam, Ledger};

    #[test]
    fn a_map_that_was_written_down_is_read_again() {
        let config = MemoryConfig { size: 64 << 20, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(1 << 30)).unwrap();
        let ledger = Ledger::new(&ram).unwrap();
        ledger.open().hold((1 << 30)..(1 << 30) + (4 << 20)).unwrap();
        let map = Map::draw_up(&mut ledger.open()).unwrap();
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("map.json");
        std::fs::write(&path, serde_json::to_string(&map).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), map);
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(read(&path), Err(Error::Shape { .. })));
        assert!(matches!(read(&folder.path().join("missing")), Err(Error::Read { .. })));
    }
}
