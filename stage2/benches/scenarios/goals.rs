//! What is asked for, as ratios of two measurements of one run.

/// `left` over `right` (the smallest of them) must not exceed `at_most`.
pub(crate) struct Goal {
    pub(crate) claim: &'static str,
    pub(crate) left: &'static str,
    pub(crate) right: &'static [&'static str],
    pub(crate) at_most: f64,
}

const PEERS_PAGES: &[&str] = &["map+unmap/pages/aarch64-paging", "map+unmap/pages/page_table_multiarch"];
const PEERS_BLOCKS: &[&str] = &["map+unmap/blocks/aarch64-paging", "map+unmap/blocks/page_table_multiarch"];

/// Goals for instruction counts.
pub(crate) const INSTRUCTIONS: &[Goal] = &[
    Goal {
        claim: "live: clearing groups, against the same entries without the Contiguous bit",
        left: "clear/groups/live",
        right: &["clear/pages/live"],
        at_most: 1.0,
    },
    Goal {
        claim: "live: clearing groups, against unfolding them first (4.8 times fewer)",
        left: "clear/groups/live",
        right: &["clear/unfold first/live"],
        at_most: 1.0 / 4.8,
    },
    Goal {
        claim: "passive: clearing groups, against the same entries without the Contiguous bit",
        left: "clear/groups/passive",
        right: &["clear/pages/passive"],
        at_most: 1.0,
    },
    Goal {
        claim: "passive: clearing groups, against unfolding them first (4.8 times fewer)",
        left: "clear/groups/passive",
        right: &["clear/unfold first/passive"],
        at_most: 1.0 / 4.8,
    },
    Goal {
        claim: "get_and_clear of 1 GiB: 2M blocks against 4K pages (100 times fewer)",
        left: "clear/blocks/live",
        right: &["clear/pages/live"],
        at_most: 0.01,
    },
    Goal {
        claim: "collect_dirty of 1 GiB: 2M blocks against 4K pages (100 times fewer)",
        left: "collect/blocks 1 GiB/live",
        right: &["collect/pages 1 GiB/live"],
        at_most: 0.01,
    },
    Goal {
        claim: "collect_dirty is linear: twice the pages, at most 2.02 times the work",
        left: "collect/pages 2 GiB/live",
        right: &["collect/pages 1 GiB/live"],
        at_most: 2.02,
    },
    Goal {
        claim: "... in entries, not bytes: 512 blocks of 1G against 512 of 2M",
        left: "collect/blocks 512 GiB/live",
        right: &["collect/blocks 1 GiB/live"],
        at_most: 1.02,
    },
    Goal {
        claim: "passive: map and unmap 1 GiB of 4K pages, against the better peer",
        left: "map+unmap/pages/stage2 passive",
        right: PEERS_PAGES,
        at_most: 0.5,
    },
    Goal {
        claim: "live: map and unmap 1 GiB of 4K pages, against the better peer",
        left: "map+unmap/pages/stage2 live",
        right: PEERS_PAGES,
        at_most: 0.5,
    },
    Goal {
        claim: "passive: map and unmap 1 GiB of 2M blocks, against the better peer",
        left: "map+unmap/blocks/stage2 passive",
        right: PEERS_BLOCKS,
        at_most: 1.0,
    },
    Goal {
        claim: "live: map and unmap 1 GiB of 2M blocks, against the better peer",
        left: "map+unmap/blocks/stage2 live",
        right: PEERS_BLOCKS,
        at_most: 1.0,
    },
];

/// Bytes of table frames, at most.
pub(crate) const FRAMES: &[(&str, u64)] =
    &[("pristine 4 GiB/stage2", 16 << 10), ("1 TiB of 1G blocks/stage2", 16 << 10)];
