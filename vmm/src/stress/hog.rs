//! Memory that is used for a moment, so that the host has less.

use crate::memory::Host;

/// The most that is taken of what is available: the host and its guests have to live on.
const SHARE: u64 = 4;

/// Uses up to `bytes`, at most a quarter of what the host has available, and lets go of them. Returns how many they
/// were.
pub fn press(host: &Host, bytes: u64) -> u64 {
    let bytes = bound(host.meminfo().map_or(0, |info| info.available), bytes);
    let page = usize::try_from(host.page_size()).unwrap_or(4096);
    let mut memory = vec![0u8; usize::try_from(bytes).unwrap_or(0)];
    for page in memory.chunks_mut(page) {
        if let Some(first) = page.first_mut() {
            *first = 1;
        }
    }
    // Or the compiler sees that nobody looks.
    std::hint::black_box(&memory);
    bytes
}

fn bound(available: u64, bytes: u64) -> u64 {
    bytes.min(available / SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_what_it_is_told_but_leaves_the_host_most() {
        let host = Host::live();
        assert_eq!(press(&host, 1 << 20), 1 << 20);
        assert_eq!(press(&host, 0), 0);
        let all = host.meminfo().unwrap().available;
        assert_eq!(bound(all, u64::MAX), all / SHARE);
    }
}
