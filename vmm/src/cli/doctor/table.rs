//! The report for people.

use std::fmt::Write as _;

use super::{Probe, Report, Verdict};

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";

/// Writes a report as a table, with its conclusion at the end.
pub(super) fn render(report: &Report, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let (bold, reset) = (paint(BOLD), paint(RESET));
    let width = report.probes.iter().map(|probe| probe.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut section = "";
    for probe in &report.probes {
        if probe.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            section = probe.section;
            line(&mut text, format_args!("{gap}{bold}{section}{reset}"));
        }
        let code = paint(match probe.verdict {
            Verdict::Ok => "\x1b[32m",
            Verdict::Warn => "\x1b[33m",
            Verdict::Missing => "\x1b[31m",
        });
        let Probe { name, found, .. } = probe;
        // Padded before it is painted: the codes have no width.
        let verdict = format!("{:7}", probe.verdict.word());
        line(&mut text, format_args!("  {code}{verdict}{reset}  {name:width$}  {found}"));
        if let Some(advice) = &probe.advice {
            line(&mut text, format_args!("  {:7}  {:width$}  -> {advice}", "", ""));
        }
    }
    line(&mut text, format_args!("\n{bold}{}{reset}", conclusion(report)));
    text
}

/// Whether a guest can run here, and what keeps it from it.
fn conclusion(report: &Report) -> String {
    if report.runs() {
        return "A guest can run here: `quire run`".into();
    }
    let missing: Vec<_> = report
        .probes
        .iter()
        .filter(|probe| probe.needed && probe.verdict == Verdict::Missing)
        .map(|probe| probe.name.as_str())
        .collect();
    format!("No guest can run here: {}. `cargo lab run` runs one on an emulated host.", missing.join(", "))
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Probe::ok("kvm", "API", "version 12"),
            Probe::ok("kvm", "/dev/kvm", "no permission").needed().missing("join the group kvm"),
            Probe::ok("pages", "THP", "never").warn("switch it on"),
        ])
    }

    #[test]
    fn columns_are_aligned_and_advice_stands_under_its_probe() {
        assert_eq!(
            render(&report(), false),
            "\
kvm
  ok       API       version 12
  missing  /dev/kvm  no permission
                     -> join the group kvm

pages
  warn     THP       never
                     -> switch it on

No guest can run here: /dev/kvm. `cargo lab run` runs one on an emulated host.
"
        );
    }

    #[test]
    fn without_anything_missing_the_conclusion_is_the_command() {
        let report = Report::new(vec![Probe::ok("kvm", "API", "version 12").needed()]);
        assert!(render(&report, false).ends_with("\nA guest can run here: `quire run`\n"));
    }

    #[test]
    fn colour_changes_no_letter() {
        let mut painted = render(&report(), true);
        assert!(painted.contains("\x1b[31mmissing\x1b[0m"));
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            painted = painted.replace(code, "");
        }
        assert_eq!(painted, render(&report(), false));
    }
}
