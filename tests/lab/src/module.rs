//! Kernel modules: which ones, what each depends on, in which order they load.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use crate::error::{Error, Result, at};

/// What a host or a guest of the lab may want. A name that a kernel has built in, or does not
/// have, is passed over.
pub(crate) const WANTED: [&str; 26] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_rng",
    "virtio_mem",
    "virtio_pmem",
    "vmw_vsock_virtio_transport",
    "vhost_vsock",
    "vhost_net",
    "tun",
    "tap",
    "bridge",
    "af_packet",
    "9p",
    "9pnet_virtio",
    "crc32c_generic",
    "crc32c_cryptoapi",
    "ext4",
    "squashfs",
    "overlay",
    "loop",
    "zram",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];

/// What the emulated host itself loads.
pub(crate) const HOST: [&str; 8] =
    ["9p", "9pnet_virtio", "tun", "loop", "vhost_vsock", "vhost_net", "crc32c_generic", "ext4"];

/// The name of a module by its file: the kernel takes `-` for `_`.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz").then(|| name.replace('-', "_"))
}

/// All modules below a folder, by name.
pub(crate) fn survey(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let path = entry.path();
        if entry.file_type().map_err(at(&path))?.is_dir() {
            survey(&path, found)?;
        } else if let Some(name) = name_of(&path) {
            found.insert(name, path);
        }
    }
    Ok(())
}

/// A module's bytes, unpacked.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(at(path))?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut image = Vec::new();
    let mut reader = lzma_rust2::XzReader::new(bytes.as_slice(), false);
    std::io::Read::read_to_end(&mut reader, &mut image).map_err(at(path))?;
    Ok(image)
}

/// The names that a module's `.modinfo` says it depends on.
pub(crate) fn depends(image: &[u8], path: &Path) -> Result<Vec<String>> {
    let error = |what: String| Error::Module { path: path.to_path_buf(), what };
    let file = object::File::parse(image).map_err(|source| error(source.to_string()))?;
    let section = file.section_by_name(".modinfo").ok_or_else(|| error("it has no .modinfo".into()))?;
    let data = section.data().map_err(|source| error(source.to_string()))?;
    Ok(parse_modinfo(data))
}

fn parse_modinfo(data: &[u8]) -> Vec<String> {
    data.split(|byte| *byte == 0)
        .filter_map(|field| std::str::from_utf8(field).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// Modules and what each depends on, every one after its dependencies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Order(Vec<(String, Vec<String>)>);

impl Order {
    /// The closure of the wanted names; `depends` is asked once per module that exists.
    pub(crate) fn resolve(
        wanted: &[&str],
        mut depends: impl FnMut(&str) -> Result<Option<Vec<String>>>,
    ) -> Result<Order> {
        let mut order = Order::default();
        let mut on_the_way = Vec::new();
        for name in wanted {
            order.visit(name, &mut depends, &mut on_the_way)?;
        }
        Ok(order)
    }

    fn visit(
        &mut self,
        name: &str,
        depends: &mut impl FnMut(&str) -> Result<Option<Vec<String>>>,
        on_the_way: &mut Vec<String>,
    ) -> Result<()> {
        // A circle can't be loaded by the kernel either: its own order will say so.
        if self.0.iter().any(|(have, _)| have == name) || on_the_way.iter().any(|way| way == name) {
            return Ok(());
        }
        let Some(needs) = depends(name)? else { return Ok(()) };
        on_the_way.push(name.to_owned());
        for need in &needs {
            self.visit(need, depends, on_the_way)?;
        }
        on_the_way.pop();
        self.0.push((name.to_owned(), needs));
        Ok(())
    }

    /// The names, in the order in which they can be loaded.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The part that these names need.
    pub(crate) fn subset(&self, wanted: &[&str]) -> Result<Order> {
        let known: BTreeMap<&str, &Vec<String>> =
            self.0.iter().map(|(name, needs)| (name.as_str(), needs)).collect();
        Order::resolve(wanted, |name| Ok(known.get(name).map(|needs| (*needs).clone())))
    }

    /// A line each: the module's file, then the files that it depends on.
    pub(crate) fn to_text(&self) -> String {
        let file = |name: &String| format!("{name}.ko");
        self.0
            .iter()
            .map(|(name, needs)| {
                let mut words = vec![file(name)];
                words.extend(needs.iter().map(file));
                words.join(" ") + "\n"
            })
            .collect()
    }

    /// The inverse of [`Order::to_text`].
    pub(crate) fn parse(text: &str) -> Order {
        let name = |file: &str| file.trim_end_matches(".ko").to_owned();
        Order(
            text.lines()
                .filter_map(|line| {
                    let mut words = line.split_whitespace().map(name);
                    Some((words.next()?, words.collect()))
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(name: &str) -> Result<Option<Vec<String>>> {
        let list: &[&str] = match name {
            "9p" => &["9pnet", "netfs"],
            "9pnet_virtio" => &["9pnet"],
            "9pnet" | "netfs" => &[],
            "a" => &["b"],
            "b" => &["a"],
            _ => return Ok(None),
        };
        Ok(Some(list.iter().map(|name| (*name).to_owned()).collect()))
    }

    #[test]
    fn a_module_comes_after_what_it_needs_and_only_once() {
        let order = Order::resolve(&["9p", "built_in", "9pnet_virtio"], needs).unwrap();
        assert_eq!(order.names().collect::<Vec<_>>(), ["9pnet", "netfs", "9p", "9pnet_virtio"]);
    }

    #[test]
    fn a_circle_ends() {
        let order = Order::resolve(&["a"], needs).unwrap();
        assert_eq!(order.names().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn an_order_survives_its_file_and_can_be_cut_down() {
        let order = Order::resolve(&["9p", "9pnet_virtio"], needs).unwrap();
        let again = Order::parse(&order.to_text());
        assert_eq!(again, order);
        let part = again.subset(&["9pnet_virtio"]).unwrap();
        assert_eq!(part.names().collect::<Vec<_>>(), ["9pnet", "9pnet_virtio"]);
    }

    #[test]
    fn modinfo_names_its_dependencies() {
        let data = b"license=GPL\0depends=9pnet,net-fs\0intree=Y\0";
        assert_eq!(parse_modinfo(data), ["9pnet", "net_fs"]);
        assert!(parse_modinfo(b"depends=\0").is_empty());
    }

    #[test]
    fn a_file_names_its_module() {
        assert_eq!(name_of(Path::new("/k/virtio-rng.ko.xz")).as_deref(), Some("virtio_rng"));
        assert_eq!(name_of(Path::new("/k/x.ko")).as_deref(), Some("x"));
        assert_eq!(name_of(Path::new("/k/modules.order")), None);
    }
}
