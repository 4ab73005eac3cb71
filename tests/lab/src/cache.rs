//! What the lab keeps between runs, outside any checkout.
//!
//! A component is a folder that appears whole: it is built under another name and renamed into
//! place while a lock is held, so that two set-ups at once build it once, and one that was
//! interrupted leaves nothing that looks finished.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::error::{Result, at};

/// The cache folder.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `QUIRE_LAB_CACHE`, or `quire/lab` in the user's cache folder.
    ///
    /// # Errors
    /// Where the environment names no home, or the folder can't be made.
    pub(crate) fn open() -> Result<Cache> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = variable("QUIRE_LAB_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("quire/lab")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache/quire/lab")))
            .ok_or_else(|| Error::Missing {
                what: "no folder for the lab's cache: HOME is not set".into(),
                remedy: "set QUIRE_LAB_CACHE to a folder with 2 GB of room".into(),
            })?;
        fs::create_dir_all(&root).map_err(at(&root))?;
        let root = root.canonicalize().map_err(at(&root))?;
        Ok(Cache { root })
    }

    /// A path in the cache.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The component's folder, built by `build` (into the folder that it is given) if it is not
    /// there yet.
    ///
    /// # Errors
    /// Those of `build`, and of the file system.
    pub(crate) fn component(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.path(name);
        if place.is_dir() {
            return Ok(place);
        }
        let _lock = self.lock(name)?;
        if place.is_dir() {
            return Ok(place);
        }
        let building = self.path(&format!("{}.part", name.replace('/', "-")));
        remove(&building)?;
        fs::create_dir_all(&building).map_err(at(&building))?;
        build(&building)?;
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        fs::rename(&building, &place).map_err(at(&place))?;
        Ok(place)
    }

    /// Forgets a component.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        let _lock = self.lock(name)?;
        remove(&self.path(name))
    }

    /// Held while something in the cache is written; freed by the kernel however its holder ends.
    pub(crate) fn lock(&self, name: &str) -> Result<File> {
        let path = self.path(&format!("{}.lock", name.replace('/', "-")));
        let file = File::create(&path).map_err(at(&path))?;
        if file.try_lock().is_err() {
            eprintln!("lab: waiting for another set-up to finish");
            file.lock().map_err(at(&path))?;
        }
        Ok(file)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}
