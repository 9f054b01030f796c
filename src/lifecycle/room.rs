//! Room on the disk for copies of data, so that upgrades side by side do not all count on the same
//! free bytes, and together fill the disk of everybody.

use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, DiskError};

/// Room that must be left beside copies.
const SPARE_BYTES: u64 = 64 << 20;

/// Bytes that copies under way may take in all.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<u64>);

/// Bytes that are one copy's until this is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    room: Arc<Room>,
    pub(super) bytes: u64,
}

impl Room {
    /// Keeps so many bytes free for a copy; `Err` says how many there are for it.
    pub(super) fn promise(
        self: &Arc<Self>,
        bytes: u64,
        disk: &Disk,
    ) -> Result<Result<Promise, u64>, DiskError> {
        let mut promised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: a copy that ends meanwhile would count neither as promised nor
        // as taken.
        let free = disk.free_bytes()?.saturating_sub(*promised);
        if free < bytes.saturating_add(SPARE_BYTES) {
            return Ok(Err(free));
        }
        *promised += bytes;
        Ok(Ok(Promise { room: Arc::clone(self), bytes }))
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        *self.room.0.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_promised_once_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let room = Arc::<Room>::default();
        let most = disk.free_bytes().unwrap() / 2;
        let first = room.promise(most, &disk).unwrap().unwrap();
        let left = room.promise(most, &disk).unwrap().unwrap_err();
        assert!(left < most + SPARE_BYTES, "{left}");
        drop(first);
        assert_eq!(room.promise(most, &disk).unwrap().unwrap().bytes, most);
    }
}
