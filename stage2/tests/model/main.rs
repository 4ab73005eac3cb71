//! bootstrap
#![cfg(not(loom))]
mod arena;
mod chance;
mod flat;
mod geometry;
mod hardware;
mod operations;
mod properties;
mod regime;
mod rig;
mod sequence;
mod tlb;
mod tlbi;
mod violation;
mod walker;
mod word;
