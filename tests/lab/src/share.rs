//! Which folders of this machine the emulated host sees, so that paths work as they are written.

use std::path::{Component, Path, PathBuf};

use lab_init::plan::Share;

use crate::error::{Error, Result};

/// What the emulated host has of its own: never covered by a folder of this machine.
const OWN: [&str; 8] = ["/bin", "/sbin", "/dev", "/proc", "/sys", "/lab", "/init", "/run"];

/// The folders that a command line needs: the current one, and those that its arguments name.
pub(crate) fn folders(current: &Path, args: &[String]) -> Result<Vec<PathBuf>> {
    if !can_share(current) {
        return Err(Error::Share {
            path: current.to_path_buf(),
            why: "the host has its own; start from a folder of yours".into(),
        });
    }
    let mut all = vec![current.to_path_buf()];
    for arg in args {
        for path in paths_in(arg) {
            let path = normal(&current.join(path));
            all.extend(folder_of(&path));
            // A link is followed in the host: where it leads must be there too.
            if let Ok(real) = path.canonicalize()
                && real != path
            {
                all.extend(folder_of(&real));
            }
        }
    }
    Ok(outermost(all))
}

/// What may be a path in an argument: the whole, the parts between commas, the values behind `=`
/// and behind `:` (`file:PATH`).
fn paths_in(arg: &str) -> Vec<&str> {
    let mut found = vec![arg];
    for part in arg.split(',') {
        found.push(part);
        if let Some((_, value)) = part.split_once('=') {
            found.push(value);
        }
        let value = part.rsplit_once('=').map_or(part, |(_, value)| value);
        if let Some((_, path)) = value.split_once(':') {
            found.push(path);
        }
    }
    found.retain(|path| !path.is_empty() && *path != "/");
    found.dedup();
    found
}

/// The folder to share for a path: itself, or the one that it is in or will be in.
fn folder_of(path: &Path) -> Option<PathBuf> {
    let folder = if path.is_dir() { path } else { path.parent()? };
    (folder.is_dir() && can_share(folder)).then(|| folder.to_path_buf())
}

fn can_share(folder: &Path) -> bool {
    folder != Path::new("/") && !OWN.iter().any(|own| folder.starts_with(own))
}

/// Without `.` and `..`, but with links as they are.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// Drops what lies inside another one.
fn outermost(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    folders.sort();
    folders.dedup();
    let mut kept: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if !kept.iter().any(|outer| folder.starts_with(outer)) {
            kept.push(folder);
        }
    }
    kept
}

/// The mounts for these folders.
pub(crate) fn shares(folders: &[PathBuf]) -> Result<Vec<Share>> {
    let share = |(index, folder): (usize, &PathBuf)| match folder.to_str() {
        Some(path) if !path.contains(',') => Ok(Share { tag: format!("lab{index}"), path: path.into() }),
        _ => Err(Error::Share { path: folder.clone(), why: "its name has a comma or is not UTF-8".into() }),
    };
    outermost(folders.to_vec()).iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn args(list: &[&str]) -> Vec<String> {
        list.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[test]
    fn folders_of_named_files_are_shared() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for folder in ["here/inner", "kernels", "disks", "out", "mem"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("kernels/Image"), "").unwrap();
        fs::write(root.join("disks/d.img"), "").unwrap();
        let path = |name: &str| root.join(name).display().to_string();
        let list = args(&[
            "--kernel=../kernels/Image",
            &format!("--disk={},ro", path("disks/d.img")),
            &format!("1G,backing=file:{}", path("mem/ram")),
            &format!("file:{}", path("out/new.log")),
            "inner/x",
            "/nowhere/at/all",
            "/dev/kvm",
        ]);
        let shared = folders(&root.join("here"), &list).unwrap();
        let expected: Vec<PathBuf> =
            ["disks", "here", "kernels", "mem", "out"].iter().map(|name| root.join(name)).collect();
        assert_eq!(shared, expected);
    }

    #[test]
    fn a_link_brings_the_folder_that_it_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for folder in ["here", "there"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        fs::write(root.join("there/file"), "").unwrap();
        std::os::unix::fs::symlink(root.join("there/file"), root.join("here/link")).unwrap();
        let shared = folders(&root.join("here"), &args(&["link"])).unwrap();
        assert_eq!(shared, [root.join("here"), root.join("there")]);
    }

    #[test]
    fn the_hosts_own_folders_stay_its_own() {
        assert!(folders(Path::new("/"), &[]).is_err());
        assert!(folders(Path::new("/dev/shm"), &[]).is_err());
        assert!(
            folders(Path::new("/tmp"), &args(&["/", "/proc/self/maps"])).unwrap() == [PathBuf::from("/tmp")]
        );
    }

    #[test]
    fn a_folder_with_a_comma_is_refused() {
        assert!(shares(&["/a,b".into()]).is_err());
        assert_eq!(shares(&["/a/b".into(), "/a".into()]).unwrap().len(), 1);
    }
}
