//! What can keep the lab from its work, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The lab's result.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why the lab could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or a folder.
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    /// A program of this machine that could not be started.
    #[error("cannot run {program}: {source}")]
    Spawn { program: String, source: io::Error },
    /// A program of this machine that failed.
    #[error("{program} failed ({status}){}", end_of(.output))]
    Failed { program: String, status: String, output: String },
    /// Something that the set-up needs and can't bring itself.
    #[error("{what}\n  what to do: {remedy}")]
    Missing { what: String, remedy: String },
    /// The distribution's packages are not as expected.
    #[error("package {package}: {what}")]
    Package { package: String, what: String },
    /// A kernel module that can't be used.
    #[error("kernel module {}: {what}", .path.display())]
    Module { path: PathBuf, what: String },
    /// The emulated host did not come up, or died.
    #[error("the emulated host {what}{}", end_of(.console))]
    Host { what: String, console: String },
    /// The emulated host would not do what it was asked.
    #[error("the emulated host: {0}")]
    Refused(String),
    /// A folder that can't be shared with the emulated host.
    #[error("{} cannot be shared with the emulated host: {why}", .path.display())]
    Share { path: PathBuf, why: String },
    /// A request that makes no sense.
    #[error("{0}")]
    Usage(String),
}

/// Turns an i/o error into one that names the file.
pub(crate) fn at<P: AsRef<Path>>(path: P) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path: path.as_ref().to_path_buf(), source }
}

/// The last lines of a text, indented below a message.
fn end_of(text: &str) -> String {
    const LINES: usize = 25;
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(LINES);
    if lines.is_empty() {
        return String::new();
    }
    let mut end = String::from(", and this was its last output:");
    for line in &lines[from..] {
        end.push_str("\n  | ");
        end.push_str(line);
    }
    end
}
