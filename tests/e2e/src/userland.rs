//! An initramfs of busybox, modules and one script.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, trailer};

use crate::environment::{self, Kernel};

/// What the guest prints when its userland is up.
pub const READY: &str = "userland is up";

/// What runs as process 1, with the test's script in the middle.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "no $module"; done
echo "userland is up: $(uname -r), $(nproc) cpus, $(grep MemTotal /proc/meminfo)"
"#;

/// An initramfs under construction.
#[derive(Debug)]
pub struct Userland {
    kernel: Kernel,
    modules: Vec<&'static str>,
    programs: Vec<PathBuf>,
    script: String,
}

impl Userland {
    /// For `kernel`: virtio devices, and a script that runs once the userland is up. When the
    /// script ends the guest powers off.
    pub fn new(kernel: Kernel, script: &str) -> Self {
        Self {
            kernel,
            modules: vec!["virtio_mmio", "virtio_blk", "virtio_rng"],
            programs: Vec::new(),
            script: script.to_owned(),
        }
    }

    /// Adds modules by name.
    #[must_use]
    pub fn with_modules(mut self, names: &[&'static str]) -> Self {
        self.modules.extend(names);
        self
    }

    /// Adds a static arm64 program of this host to the guest's PATH.
    #[must_use]
    pub fn with_program(mut self, path: PathBuf) -> Self {
        self.programs.push(path);
        self
    }

    /// Writes it to `folder`, and returns the file.
    ///
    /// # Panics
    /// Where it can't be written.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("initramfs");
        self.try_write(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    fn try_write(&self, path: &Path) -> io::Result<()> {
        let mut archive = Archive { out: BufWriter::new(File::create(path)?), inode: 0 };
        for folder in ["bin", "dev", "proc", "sys", "mnt", "modules"] {
            archive.entry(folder, FOLDER, &[])?;
        }
        archive.entry("bin/busybox", PROGRAM, &fs::read(environment::busybox())?)?;
        for path in &self.programs {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            archive.entry(&format!("bin/{name}"), PROGRAM, &fs::read(path)?)?;
        }
        let mut order = String::new();
        for file in self.kernel.modules(&self.modules) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            archive.entry(&format!("modules/{name}"), TEXT, &fs::read(&file)?)?;
            order += &(name + "\n");
        }
        archive.entry("modules/order", TEXT, order.as_bytes())?;
        // Setting a terminal waits until what was written has gone out; `poweroff -f` waits for nothing.
        let init = format!("{INIT}{}\nsync\nstty sane < /dev/console\npoweroff -f\n", self.script);
        archive.entry("init", PROGRAM, init.as_bytes())?;
        trailer(archive.out)?.flush()
    }
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;

struct Archive {
    out: BufWriter<File>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut entry = Builder::new(name).ino(self.inode).mode(mode).nlink(1).write(&mut self.out, size);
        entry.write_all(content)?;
        entry.finish().map(|_| ())
    }
}
