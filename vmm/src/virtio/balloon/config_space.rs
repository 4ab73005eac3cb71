//! The configuration that the driver reads and writes (virtio 1.3, 5.5.4).

use crate::virtio::ConfigSpace;

use super::state::State;

const ACTUAL: u64 = 4;
const POISON: u64 = 12;

/// struct virtio_balloon_config, little-endian: num_pages, actual, free_page_hint_cmd_id, poison_val.
impl ConfigSpace for State {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let values = self.values();
        let words = [values.target, values.actual, values.hinting.status().host_cmd, values.poison];
        drop(values);
        words.map(u32::to_le_bytes).concat().read(offset, data);
    }

    /// A field is written whole (virtio 1.3, 4.2.2.2); what is no field of the driver's stays.
    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else { return };
        let mut values = self.values();
        match offset {
            ACTUAL => {
                values.actual = word;
                self.note_progress(&values);
            }
            // Not once the driver is ready (virtio 1.3, 5.5.6.5): what was reported meanwhile had a value.
            POISON if values.driver.is_none() => values.poison = word,
            _ => {}
        }
    }
}
