//! `quire ctl balloon SIZE`: asks for it, and watches the guest follow.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Error;
use super::client::Client;
use crate::config::Size;
use crate::say::say;

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How often a line is printed where there is no terminal.
const LINE: Duration = Duration::from_secs(1);

/// Where a balloon stands, as GET /quire/balloon says. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) memory: u64,
    pub(super) target: u64,
    pub(super) actual: u64,
    pub(super) active: bool,
}

/// What there is to say after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The guest is on its way.
    Moving,
    /// It is there.
    Reached,
    /// It has not moved for too long.
    Stuck,
    /// Somebody else wants something else.
    Overtaken,
}

/// One way of a balloon to its target.
#[derive(Debug)]
struct Watch {
    target: u64,
    start: u64,
    last: u64,
    moved: Instant,
    patience: Duration,
}

impl Watch {
    fn new(target: u64, actual: u64, now: Instant, patience: Duration) -> Self {
        Self { target, start: actual, last: actual, moved: now, patience }
    }

    fn look(&mut self, standing: &Standing, now: Instant) -> Step {
        if standing.actual != self.last {
            self.last = standing.actual;
            self.moved = now;
        }
        if standing.target != self.target {
            Step::Overtaken
        } else if standing.actual == self.target {
            Step::Reached
        } else if now.saturating_duration_since(self.moved) >= self.patience {
            Step::Stuck
        } else {
            Step::Moving
        }
    }

    /// How far there is to go in all, and how far it has come; never further than all.
    fn progress(&self) -> (u64, u64) {
        let all = self.target.abs_diff(self.start);
        (all, all.saturating_sub(self.target.abs_diff(self.last)))
    }
}

/// Moves the balloon to `size` bytes, and waits until the guest has followed.
///
/// # Errors
/// [`Error::Stuck`] where the guest does not get further for `patience`, [`Error::Overtaken`] where
/// somebody else asked for another size meanwhile, and what the client says.
pub(super) fn resize(
    client: &Client,
    size: Size,
    patience: Duration,
    quiet: bool,
) -> Result<Standing, Error> {
    let before: Standing = client.get("/quire/balloon")?;
    client.patch("/quire/balloon", &json!({ "size": size.0 }))?;
    let mut watch = Watch::new(size.0, before.actual, Instant::now(), patience);
    let mut display = Display::new(quiet, &watch);
    loop {
        let standing: Standing = client.get("/quire/balloon")?;
        let step = watch.look(&standing, Instant::now());
        display.show(&watch);
        match step {
            Step::Moving => thread::sleep(POLL),
            Step::Reached => return Ok(standing),
            Step::Stuck => {
                drop(display);
                let paused = super::state(client)? == "Paused";
                return Err(Error::Stuck {
                    actual: Size(standing.actual),
                    target: size,
                    patience,
                    advice: match (paused, standing.actual < size.0) {
                        (true, _) => "it is paused: `quire ctl resume` lets it go on",
                        (false, true) => "it may have no more to give",
                        (false, false) => "its driver may be gone",
                    },
                });
            }
            Step::Overtaken => {
                return Err(Error::Overtaken { target: Size(standing.target), wanted: size });
            }
        }
    }
}

/// A bar on a terminal, lines elsewhere.
enum Display {
    Bar(ProgressBar),
    Lines { last: Option<(u64, Instant)> },
    Nothing,
}

impl Display {
    fn new(quiet: bool, watch: &Watch) -> Self {
        if quiet {
            return Self::Nothing;
        }
        if !io::stderr().is_terminal() {
            return Self::Lines { last: None };
        }
        let bar = ProgressBar::with_draw_target(Some(watch.progress().0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("balloon {bar:40} {msg}, {elapsed}");
        // A template that is wrong is a plain bar.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    fn show(&mut self, watch: &Watch) {
        let text = || format!("{} of {}", Size(watch.last), Size(watch.target));
        match self {
            Self::Bar(bar) => {
                bar.set_message(text());
                bar.set_position(watch.progress().1);
            }
            Self::Lines { last } => {
                let now = Instant::now();
                let due = match last {
                    None => true,
                    Some((actual, at)) => *actual != watch.last && now.saturating_duration_since(*at) >= LINE,
                };
                if due {
                    say(format_args!("balloon: {}\n", text()));
                    *last = Some((watch.last, now));
                }
            }
            Self::Nothing => {}
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn standing(target: u64, actual: u64) -> Standing {
        Standing { memory: 1000, target, actual, active: true }
    }

    #[test]
    fn a_balloon_that_moves_is_waited_for_however_slow_it_is() {
        let start = Instant::now();
        let mut watch = Watch::new(100, 0, start, PATIENCE);
        for step in 1..100u64 {
            let now = start + PATIENCE * step as u32 - Duration::from_nanos(step);
            assert_eq!(watch.look(&standing(100, step), now), Step::Moving);
            assert_eq!(watch.progress(), (100, step));
        }
        assert_eq!(watch.look(&standing(100, 100), start + PATIENCE * 1000), Step::Reached);
    }

    #[test]
    fn one_that_stands_still_is_given_up() {
        let start = Instant::now();
        let mut watch = Watch::new(0, 100, start, PATIENCE);
        assert_eq!(watch.look(&standing(0, 60), start + PATIENCE / 2), Step::Moving);
        assert_eq!(watch.look(&standing(0, 60), start + PATIENCE), Step::Moving);
        assert_eq!(watch.progress(), (100, 40));
        assert_eq!(watch.look(&standing(0, 60), start + PATIENCE / 2 + PATIENCE), Step::Stuck);
    }

    #[test]
    fn another_target_is_seen_even_where_ours_is_reached() {
        let mut watch = Watch::new(100, 0, Instant::now(), PATIENCE);
        assert_eq!(watch.look(&standing(50, 100), Instant::now()), Step::Overtaken);
    }

    #[test]
    fn a_balloon_that_goes_the_wrong_way_makes_no_progress() {
        let mut watch = Watch::new(100, 50, Instant::now(), PATIENCE);
        watch.look(&standing(100, 10), Instant::now());
        assert_eq!(watch.progress(), (50, 0));
        watch.look(&standing(100, 300), Instant::now());
        assert_eq!(watch.progress(), (50, 0));
    }
}
