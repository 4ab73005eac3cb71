//! A Linux guest whose shell does on the console what the test types there.

use std::ffi::OsString;
use std::path::Path;

use crate::environment::Kernel;
use crate::environment::linux;
use crate::guest::Guest;
use crate::userland::{self, Userland};

/// Reads commands until one of them is `end`.
const SCRIPT: &str = r#"while read -r line && [ "$line" != end ]; do eval "$line"; done"#;

/// A guest that takes commands.
#[derive(Debug)]
pub struct Shell {
    guest: Guest,
    told: u32,
}

impl Shell {
    /// Boots `kernel` with `modules`, and `args` for `quire`. The initramfs lies in `folder` until then.
    ///
    /// # Panics
    /// Where the guest does not come up.
    #[track_caller]
    pub fn boot(kernel: Kernel, modules: &[&'static str], folder: &Path, args: &[OsString]) -> Self {
        let initrd = Userland::new(kernel, SCRIPT).with_modules(modules).write(folder);
        let mut all = linux(kernel, &initrd, &[]);
        all.extend_from_slice(args);
        let mut guest = Guest::start(all);
        guest.wait_for(userland::READY);
        Self { guest, told: 0 }
    }

    /// Has the guest do `command`, and returns what it printed.
    ///
    /// # Panics
    /// Where the command fails, or does not end.
    #[track_caller]
    pub fn tell(&mut self, command: &str) -> String {
        self.told += 1;
        let number = self.told;
        // What is typed is echoed; the quotes keep that apart from what is answered.
        self.guest.send(&format!("{command}; echo \"did\"\":$?:{number}\"\n"));
        let text = self.guest.wait_for(&format!(":{number}\r\n"));
        assert!(text.contains(&format!("did:0:{number}")), "{command:?} failed: {text}");
        text
    }

    /// The process that runs the guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Lets the guest power itself off, and waits for `quire` to end with 0.
    ///
    /// # Panics
    /// Where it ends otherwise.
    #[track_caller]
    pub fn end(mut self) -> String {
        self.guest.send("end\n");
        self.guest.expect_exit(0)
    }

    /// The process alone.
    pub fn into_guest(self) -> Guest {
        self.guest
    }
}
