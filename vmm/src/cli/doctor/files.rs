//! sysfs and procfs, wherever they are.

use std::fs;
use std::path::{Path, PathBuf};

/// The files of a host below a root folder: `/`, or a made-up one in tests.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    /// This machine's.
    pub(super) fn live() -> Self {
        Self { root: "/".into() }
    }

    /// Those of a made-up machine.
    #[cfg(test)]
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// A file without its final newline; `path` is absolute. `None` where it can't be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.place(path)).ok().map(|text| text.trim_end().to_owned())
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
    }
}

/// A made-up machine with these files, and the folder that it lives in.
#[cfg(test)]
pub(super) fn made_up(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
    let folder = tempfile::TempDir::new().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let files = Files::below(folder.path());
    (folder, files)
}
