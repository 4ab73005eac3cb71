//! Which block size a configuration gets on this host.

use crate::config::{self, MemoryConfig};

use super::error::Error;
use super::host::Host;
use super::hugetlb::{self, Pool};
use super::transparent::{self, Kind};

/// How the host is to be asked for the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Base pages, huge ones refused.
    Pages,
    /// Transparent huge pages of this many bytes, where the kernel finds them.
    Transparent(u64),
    /// Whatever the file system gives.
    FileSystem,
    /// Huge pages from this pool, all of them promised before the guest starts.
    Pool(Pool),
}

impl Plan {
    /// Decides for a configuration, and checks its size against the decision.
    ///
    /// A size that was asked for by name is an error where the host doesn't give it; `auto` takes the
    /// largest that it does.
    ///
    /// # Errors
    ///
    /// [`Error::NotWholeBlocks`], and why the host has no such blocks.
    pub fn new(host: &Host, config: &MemoryConfig) -> Result<Self, Error> {
        let size = config.size;
        let kind = match &config.backing {
            config::Backing::Hugetlb => return pool(host, config).map(Self::Pool),
            config::Backing::File(_) | config::Backing::Private(_) => return file(host, config),
            config::Backing::Anon => Kind::Anon,
            config::Backing::Memfd => Kind::Shmem,
        };
        whole(size, host.page_size(), "the nearest such size")?;
        let plan = match config.block.bytes() {
            None => {
                transparent::largest(host, kind, size.min(1 << 30)).map_or(Self::Pages, Self::Transparent)
            }
            // Base pages are called 4K on every host.
            Some(block) if block <= host.page_size() => Self::Pages,
            Some(block) => {
                whole(size, block, "block=4K")?;
                transparent::check(host, kind, block)?;
                Self::Transparent(block)
            }
        };
        Ok(plan)
    }

    /// The unit that the host is asked for, in bytes.
    pub fn block(&self, host: &Host) -> u64 {
        match self {
            Self::Pages | Self::FileSystem => host.page_size(),
            Self::Transparent(block) => *block,
            Self::Pool(pool) => pool.page,
        }
    }
}

fn pool(host: &Host, config: &MemoryConfig) -> Result<Pool, Error> {
    match config.block.bytes() {
        None => hugetlb::largest(host, config.size),
        Some(block) => {
            let pool = hugetlb::pool(host, block)?;
            whole(config.size, block, "another block size")?;
            pool.check(config.size)?;
            Ok(pool)
        }
    }
}

fn file(host: &Host, config: &MemoryConfig) -> Result<Plan, Error> {
    whole(config.size, host.page_size(), "the nearest such size")?;
    match config.block.bytes() {
        None => Ok(Plan::FileSystem),
        Some(block) if block <= host.page_size() => Ok(Plan::Pages),
        Some(block) => Err(Error::NoSuchBlock {
            backing: match config.backing {
                config::Backing::Private(_) => "backing=private",
                _ => "backing=file",
            },
            block,
            hint: "the file system decides; use block=auto, or another backing".into(),
        }),
    }
}

fn whole(size: u64, block: u64, alternative: &'static str) -> Result<(), Error> {
    if size.is_multiple_of(block) { Ok(()) } else { Err(Error::NotWholeBlocks { size, block, alternative }) }
}

#[cfg(test)]
mod tests {
    use super::super::hugetlb::tests::add_pool;
    use super::super::transparent::tests::set;
    use super::*;
    use crate::config::BlockSize;
    use vmm_sys_util::tempdir::TempDir;

    fn config(size: u64, backing: config::Backing, block: BlockSize) -> MemoryConfig {
        MemoryConfig { size, backing, block, ..MemoryConfig::default() }
    }

    #[test]
    fn auto_takes_the_largest_that_the_host_gives() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        let anon = |size| Plan::new(&host, &config(size, config::Backing::Anon, BlockSize::Auto)).unwrap();
        assert_eq!(anon(64 << 20), Plan::Pages);
        set(root.as_path(), Some(64), Kind::Anon, "madvise");
        assert_eq!(anon(64 << 20), Plan::Transparent(64 << 10));
        set(root.as_path(), Some(2048), Kind::Anon, "always");
        assert_eq!(anon(64 << 20), Plan::Transparent(2 << 20));
        assert_eq!(anon(1 << 20), Plan::Transparent(64 << 10));
    }

    #[test]
    fn odd_sizes_are_refused_for_every_backing() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 16384);
        add_pool(root.as_path(), 2048, 1024, 1024, 0);
        set(root.as_path(), Some(2048), Kind::Anon, "always");
        set(root.as_path(), Some(2048), Kind::Shmem, "always");
        let cases = [
            (4096, config::Backing::Anon, BlockSize::Auto),
            (4096, config::Backing::Memfd, BlockSize::Size4K),
            (4096, config::Backing::File("x".into()), BlockSize::Auto),
            (3 << 20, config::Backing::Anon, BlockSize::Size2M),
            (3 << 20, config::Backing::Memfd, BlockSize::Size2M),
            (3 << 20, config::Backing::Hugetlb, BlockSize::Size2M),
        ];
        for (size, backing, block) in cases {
            let config = config(size, backing, block);
            let error = Plan::new(&host, &config).unwrap_err();
            assert!(matches!(error, Error::NotWholeBlocks { .. }), "{config:?}: {error}");
        }
    }

    #[test]
    fn a_file_has_no_block_size_of_ours() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        let config = config(64 << 20, config::Backing::File("x".into()), BlockSize::Size2M);
        assert!(matches!(Plan::new(&host, &config), Err(Error::NoSuchBlock { .. })));
    }

    #[test]
    fn base_pages_are_called_4k_on_hosts_with_larger_ones() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 16384);
        let plan = Plan::new(&host, &config(64 << 20, config::Backing::Anon, BlockSize::Size4K)).unwrap();
        assert_eq!((plan.block(&host), plan), (16384, Plan::Pages));
    }
}
