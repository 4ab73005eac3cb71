//! When what happened, from the start of the process to the first byte on the console.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The points in time of one start, each noted once.
#[derive(Debug)]
pub struct Timeline {
    origin: Instant,
    memory: OnceLock<Instant>,
    vm: OnceLock<Instant>,
    loaded: OnceLock<Instant>,
    ready: OnceLock<Instant>,
    entered: OnceLock<Instant>,
    console: Arc<OnceLock<Instant>>,
}

fn note(point: &OnceLock<Instant>) {
    // A later start of the same process, after a reset, is not what is measured.
    let _ = point.set(Instant::now());
}

impl Timeline {
    /// A timeline of a process whose `main` began at `main`, having used `before` of its processor
    /// since it was started: loading and relocating a program waits for nothing, so that is the
    /// time from its start.
    pub fn new(main: Instant, before: Duration) -> Self {
        let point = OnceLock::new;
        Self {
            origin: main.checked_sub(before).unwrap_or(main),
            memory: point(),
            vm: point(),
            loaded: point(),
            ready: point(),
            entered: point(),
            console: Arc::default(),
        }
    }

    /// Guest memory is mapped.
    pub fn memory_mapped(&self) {
        note(&self.memory);
    }

    /// KVM has made the VM.
    pub fn vm_created(&self) {
        note(&self.vm);
    }

    /// Kernel, device tree and initial RAM disk are in guest memory.
    pub fn loaded(&self) {
        note(&self.loaded);
    }

    /// Every vCPU and device is ready.
    pub fn ready(&self) {
        note(&self.ready);
    }

    /// The first vCPU enters the guest for the first time.
    pub fn guest_entered(&self) {
        note(&self.entered);
    }

    /// Where the serial port notes the guest's first byte.
    pub fn first_console_byte(&self) -> Arc<OnceLock<Instant>> {
        Arc::clone(&self.console)
    }

    /// Microseconds since the start of the process, by what happened, in order; `None` for what has
    /// not happened.
    pub fn points(&self) -> [(&'static str, Option<u128>); 6] {
        let since = |point: &OnceLock<Instant>| {
            point.get().map(|at| at.saturating_duration_since(self.origin).as_micros())
        };
        [
            ("guest memory mapped", since(&self.memory)),
            ("VM created", since(&self.vm)),
            ("kernel loaded", since(&self.loaded)),
            ("vCPUs and devices ready", since(&self.ready)),
            ("first guest instruction", since(&self.entered)),
            ("first console byte", since(&self.console)),
        ]
    }
}

impl std::fmt::Display for Timeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "timeline, microseconds from process start:")?;
        for (what, at) in self.points() {
            match at {
                Some(at) => writeln!(f, "  {at:>10}  {what}")?,
                None => writeln!(f, "  {:>10}  {what}", "never")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_noted_once_and_counts_from_the_process_start() {
        let timeline = Timeline::new(Instant::now(), Duration::from_micros(500));
        timeline.guest_entered();
        let first = timeline.points();
        // Until a point noted now would differ.
        let now = Instant::now();
        while now.elapsed() < Duration::from_micros(2) {}
        timeline.guest_entered();
        assert_eq!(timeline.points(), first);
        assert!(first[4].1.unwrap() >= 500);
        assert_eq!(first[5].1, None);
    }
}
