//! Where Debian's archive is for this machine: as its own apt says, or as the user says.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::tool;

/// The addresses of the two archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// The main archive.
    pub(crate) main: String,
    /// The archive of security updates.
    pub(crate) security: String,
}

/// One archive that a machine is configured for.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    address: String,
    suite: String,
}

impl Mirror {
    /// What the user named (`--mirror` or `QUIRE_LAB_MIRROR`: one address, or two with a comma
    /// between), else what the machine uses.
    ///
    /// # Errors
    /// Where neither is there.
    pub(crate) fn find(named: Option<&str>) -> Result<Mirror> {
        if let Some(named) = named {
            return Ok(Mirror::parse(named));
        }
        let mut sources = index_targets();
        if sources.is_empty() {
            sources = source_files(Path::new("/etc/apt"));
        }
        Mirror::from_sources(&sources).ok_or_else(|| Error::Missing {
            what: "this machine's apt has no source of Debian's packages".into(),
            remedy: "name a Debian mirror: --mirror http://HOST/debian[,http://HOST/debian-security] \
                     (or QUIRE_LAB_MIRROR)"
                .into(),
        })
    }

    fn parse(named: &str) -> Mirror {
        let (main, security) = named.split_once(',').unwrap_or((named, ""));
        let main = main.trim().trim_end_matches('/').to_owned();
        let security = match security.trim().trim_end_matches('/') {
            "" => format!("{main}-security"),
            security => security.to_owned(),
        };
        Mirror { main, security }
    }

    fn from_sources(sources: &[Source]) -> Option<Mirror> {
        let is_security = |source: &&Source| source.suite.contains("-security");
        let main = sources.iter().find(|source| !is_security(source))?.address.clone();
        let security = sources.iter().find(is_security).map(|source| source.address.clone());
        let security = security.unwrap_or_else(|| format!("{main}-security"));
        Some(Mirror { main, security })
    }
}

/// What apt itself says, for the archives whose lists it has. Only Debian's own count.
fn index_targets() -> Vec<Source> {
    let format = "$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)";
    let mut command = Command::new("apt-get");
    let text = tool::output(command.args(["indextargets", "--format", format, "Created-By: Packages"]));
    parse_index_targets(&text.unwrap_or_default())
}

fn parse_index_targets(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let &["Debian", address, suite, "main"] = fields.as_slice() else { return None };
            Some(Source { address: address.trim_end_matches('/').into(), suite: suite.into() })
        })
        .collect()
}

/// The machine's sources, read from their files: before the first `apt-get update` apt tells
/// nothing.
fn source_files(etc: &Path) -> Vec<Source> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        files.extend(more);
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(parse_lines(&text)),
            Some("sources") => sources.extend(parse_paragraphs(&text)),
            _ => {}
        }
    }
    sources
}

/// Suites of Debian's own archive, so that another vendor's repository is not taken for it.
fn is_debian(suite: &str) -> bool {
    let base = suite.split('-').next().unwrap_or_default();
    let known = ["bookworm", "trixie", "forky", "duke", "sid", "oldstable", "stable", "testing", "unstable"];
    let extra = suite.strip_prefix(base).unwrap_or_default();
    known.contains(&base) && ["", "-updates", "-security", "-backports"].contains(&extra)
}

/// `deb [options] ADDRESS SUITE COMPONENT...`, a line each.
fn parse_lines(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let Some(mut rest) = line.trim().strip_prefix("deb ").map(str::trim_start) else { continue };
        if let Some(options) = rest.strip_prefix('[') {
            rest = options.split_once(']').map_or("", |(_, rest)| rest);
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [address, suite, components @ ..] = words.as_slice()
            && is_debian(suite)
            && components.contains(&"main")
            && address.starts_with("http")
        {
            sources.push(Source { address: address.trim_end_matches('/').into(), suite: (*suite).into() });
        }
    }
    sources
}

/// Paragraphs of `Types:`, `URIs:`, `Suites:`, `Components:`.
fn parse_paragraphs(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| -> Vec<&str> {
            let mut lines = paragraph.lines().filter_map(|line| line.split_once(':'));
            let value = lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            value.unwrap_or_default().split_whitespace().collect()
        };
        if !field("Types").contains(&"deb")
            || !field("Components").contains(&"main")
            || field("Enabled").contains(&"no")
        {
            continue;
        }
        for suite in field("Suites").into_iter().filter(|suite| is_debian(suite)) {
            for address in field("URIs").into_iter().filter(|address| address.starts_with("http")) {
                sources.push(Source { address: address.trim_end_matches('/').into(), suite: suite.into() });
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str, suite: &str) -> Source {
        Source { address: address.into(), suite: suite.into() }
    }

    #[test]
    fn only_debians_main_archive_counts() {
        let text = "Other\thttp://o/\tbookworm\tmain\nDebian\thttp://m/debian/\tbookworm\tmain\n\
                    Debian\thttp://m/debian/\tbookworm\tcontrib\nDebian\thttp://s/sec/\tbookworm-security\tmain\n";
        let mirror = Mirror::from_sources(&parse_index_targets(text)).unwrap();
        assert_eq!(mirror, Mirror { main: "http://m/debian".into(), security: "http://s/sec".into() });
    }

    #[test]
    fn one_line_sources_are_read() {
        let text = "# deb http://no/debian sid main\ndeb cdrom:[D]/ bookworm main\n\
                    deb [arch=amd64 signed-by=/k] http://m/debian/ bookworm main contrib\n\
                    deb http://x/apt bookworm stable\ndeb http://p/apt bookworm-pgdg main\n";
        assert_eq!(parse_lines(text), [source("http://m/debian", "bookworm")]);
    }

    #[test]
    fn paragraphs_of_sources_are_read() {
        let text = "Types: deb\nURIs: http://m/debian\nSuites: trixie trixie-updates\nComponents: main\n\n\
                    Types: deb\nURIs: http://m/sec\nSuites: trixie-security\nComponents: main\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://off\nSuites: trixie\nComponents: main\n";
        let sources = parse_paragraphs(text);
        assert_eq!(sources.len(), 3);
        let mirror = Mirror::from_sources(&sources).unwrap();
        assert_eq!(mirror, Mirror { main: "http://m/debian".into(), security: "http://m/sec".into() });
    }

    #[test]
    fn a_named_mirror_implies_its_security_archive() {
        let one = Mirror::parse("http://m/debian/");
        assert_eq!(
            one,
            Mirror { main: "http://m/debian".into(), security: "http://m/debian-security".into() }
        );
        assert_eq!(Mirror::parse("http://m/debian,http://s/x").security, "http://s/x");
    }
}
