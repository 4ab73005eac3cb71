//! VMSAv8-64 stage-2 translation tables.
#![no_std]
