//! The balloon of a stock Linux guest whose memory is huge pages: they go back to their pool whole.
#![cfg(target_arch = "aarch64")]

use e2e::Kernel;
use e2e::balloon::{LEAST_IN_HUGE_PAGES, RAM, gives_at_least};
use e2e::hugepages::Pool;
use rustix::process::Pid;

#[test]
fn huge_pages_go_back_to_their_pool_whole() {
    let pool = Pool::with_free(2048, RAM >> 21).expect("the host has memory for huge pages");
    let cost = |_: Pid| RAM - (pool.free() << 21).min(RAM);
    gives_at_least(LEAST_IN_HUGE_PAGES, Kernel::New, "384M,backing=hugetlb,block=2M", &cost);
}
