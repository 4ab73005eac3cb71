//! Arbitrary drivers of a balloon, decoded from bytes and held against what no driver may bring about.
//!
//! What the fuzzer runs and what the tests replay is this one module:
//!
//! - `operation`: bytes become what a driver and a controller do;
//! - `guest`: registers, rings and buffers, as a guest has them;
//! - `watch`: the balloon's memory, with what may happen to each page;
//! - `ground`: RAM on a memfd that goes on behind it.

pub(crate) mod ground;
pub(crate) mod guest;
pub(crate) mod operation;
mod watch;

use arbitrary::Unstructured;

use guest::Guest;
use operation::{Operation, Setup};

/// Operations of one sequence, at most.
const OPERATIONS: usize = 64;

/// Decodes `data` and lets the driver that it describes loose. Panics where something happens that must not.
pub(crate) fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(setup) = Setup::decode(&mut u) else { return };
    let tells = std::env::var_os("SEQUENCE").is_some();
    let mut guest = Guest::new(&setup);
    for _ in 0..OPERATIONS {
        if u.is_empty() {
            break;
        }
        let Ok(operation) = Operation::decode(&mut u) else { break };
        if tells {
            eprintln!("{operation:x?}");
        }
        guest.apply(&operation);
    }
    guest.end();
}
