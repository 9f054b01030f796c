//! The record of an instance beside its data: all that the store knows of it, sealed.
//!
//! A record is a line of text and *frames*, each sealed for the instance's directory. The first
//! frame holds everything; each one behind it what a change has made of some entries. So a change
//! costs one append, however many bindings there are. A frame that was cut off by a crash is as if
//! it had not been written: the store, which is written before, has it at the next start. One that is all
//! there and does not open was damaged, which a rebuild has to tell: what is in it and behind it is lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    credentials::{FINGERPRINT_BYTES, KeyError, Keyring},
    store::{INSTANCE_ENTRY, RecordedRows},
};

/// How a record begins.
const HEAD: &[u8] = b"docker-broker record 1\n";
/// Bytes of a frame's length.
const LENGTH: usize = 4;

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// The keys do not fit.
    #[error("it was encrypted with a key that is not among encryption_keys")]
    Key(#[source] KeyError),
    /// It is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The keys refused to work.
    #[error("it cannot be sealed")]
    Seal(#[source] KeyError),
}

/// A change of entries, or all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Frame {
    /// Schema of the store that the rows are of.
    pub(super) schema: i64,
    /// Id of the instance.
    pub(super) id: String,
    /// Which of its changes this is.
    pub(super) revision: i64,
    /// Whether it holds everything, so that nothing of the frames before counts.
    pub(super) whole: bool,
    /// Rows of entries. One without rows is gone.
    pub(super) entries: BTreeMap<String, RecordedRows>,
}

/// What the frames of a record come to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// As one frame.
    pub(super) frame: Frame,
    /// The file ends with something that is no frame, or is not all sealed with the first key.
    pub(super) is_stale: bool,
    /// That is no frame that a crash has cut off: changes may have been lost.
    pub(super) is_damaged: bool,
}

fn place(name: &str) -> String {
    format!("record:{name}")
}

impl Frame {
    /// As it is appended to the record of the instance with this safe name.
    pub(super) fn encode(&self, keys: &Keyring, name: &str) -> Result<Vec<u8>, RecordError> {
        let text = serde_json::to_vec(self).map_err(|e| RecordError::Damaged(e.to_string()))?;
        let sealed = keys.seal(&place(name), &text).map_err(RecordError::Seal)?;
        let length = u32::try_from(sealed.len())
            .map_err(|_| RecordError::Damaged("it would be larger than 4 GiB".to_owned()))?;
        Ok([&length.to_le_bytes()[..], &sealed].concat())
    }

    /// As a record of its own.
    pub(super) fn encode_whole(&self, keys: &Keyring, name: &str) -> Result<Vec<u8>, RecordError> {
        Ok([HEAD, &self.encode(keys, name)?].concat())
    }

    /// Rows of the instance itself.
    pub(super) fn of_instance(&self) -> Option<&RecordedRows> {
        self.entries.get(INSTANCE_ENTRY).filter(|rows| rows.contains_key("instances"))
    }

    /// When the instance was made: another one may have had its id before.
    pub(super) fn created_at(&self) -> Option<i64> {
        self.of_instance()?.get("instances")?.first()?.get("created_at")?.as_i64()
    }

    /// A text of the instance's row.
    pub(super) fn text(&self, column: &str) -> Option<&str> {
        self.of_instance()?.get("instances")?.first()?.get(column)?.as_str()
    }
}

/// Reads the record of the instance with this safe name.
pub(super) fn decode(keys: &Keyring, name: &str, bytes: &[u8]) -> Result<Record, RecordError> {
    let damaged = |why: &str| RecordError::Damaged(why.to_owned());
    let mut rest = bytes.strip_prefix(HEAD).ok_or_else(|| damaged("it does not begin as one"))?;
    let first = keys.first_fingerprint().map_err(RecordError::Key)?;
    let mut record: Option<Record> = None;
    while !rest.is_empty() {
        let outcome = next_frame(keys, name, &mut rest);
        match (outcome, &mut record) {
            (Ok(Some((frame, fingerprint))), None) if frame.whole => {
                let is_stale = fingerprint != first;
                record = Some(Record { frame, is_stale, is_damaged: false });
            }
            (Ok(Some(_)), None) => return Err(damaged("it does not begin with everything")),
            (Ok(None), None) => return Err(damaged("it is cut off")),
            (Ok(Some((frame, fingerprint))), Some(record)) => {
                record.is_stale |= fingerprint != first;
                merge(&mut record.frame, frame);
            }
            (Err(error), None) => return Err(error),
            // What comes behind it cannot be told from garbage.
            (cut_off_or_damaged, Some(record)) => {
                record.is_stale = true;
                record.is_damaged = cut_off_or_damaged.is_err();
                break;
            }
        }
    }
    record.ok_or_else(|| damaged("it is empty"))
}

/// `None`: it is cut off.
fn next_frame(
    keys: &Keyring,
    name: &str,
    rest: &mut &[u8],
) -> Result<Option<(Frame, [u8; FINGERPRINT_BYTES])>, RecordError> {
    let short = || RecordError::Damaged("a part of it has an odd length".to_owned());
    let Some((length, behind)) = rest.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
    let Some((sealed, behind)) = behind.split_at_checked(length) else { return Ok(None) };
    let fingerprint = *sealed.first_chunk::<FINGERPRINT_BYTES>().ok_or_else(short)?;
    let text = keys.open(&place(name), sealed).map_err(|error| match error {
        KeyError::Damaged(why) => RecordError::Damaged(why),
        error => RecordError::Key(error),
    })?;
    let frame = serde_json::from_slice(&text).map_err(|e| RecordError::Damaged(e.to_string()))?;
    *rest = behind;
    Ok(Some((frame, fingerprint)))
}

fn merge(all: &mut Frame, later: Frame) {
    if later.whole {
        *all = later;
        return;
    }
    (all.schema, all.revision) = (later.schema, later.revision);
    for (entry, rows) in later.entries {
        if rows.is_empty() {
            all.entries.remove(&entry);
        } else {
            all.entries.insert(entry, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(texts: &[&str]) -> Keyring {
        Keyring::new(texts.iter().copied()).unwrap()
    }

    fn rows(state: &str) -> RecordedRows {
        let row = json!({ "id": "i1", "state": state });
        BTreeMap::from([("instances".to_owned(), vec![row.as_object().unwrap().clone()])])
    }

    fn frame(revision: i64, whole: bool, entries: &[(&str, RecordedRows)]) -> Frame {
        let entries = entries.iter().map(|(key, rows)| ((*key).to_owned(), rows.clone()));
        Frame { schema: 1, id: "i1".into(), revision, whole, entries: entries.collect() }
    }

    #[test]
    fn a_record_cut_off_or_damaged_gives_an_earlier_whole_state_or_says_that_it_is_damaged() {
        let keys = keys(&["a key of this test"]);
        let frames = [
            frame(1, true, &[("", rows("one"))]),
            frame(2, false, &[("b", rows("b"))]),
            frame(3, false, &[("", rows("two")), ("b", RecordedRows::new())]),
        ];
        let mut bytes = HEAD.to_vec();
        let mut ends = Vec::new();
        for frame in &frames {
            bytes.extend(frame.encode(&keys, "i-1").unwrap());
            ends.push(bytes.len());
        }
        for length in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= length).count();
            match (decode(&keys, "i-1", &bytes[..length]), whole) {
                (Err(RecordError::Damaged(_)), 0) => {}
                (Ok(record), whole) if whole > 0 => {
                    assert_eq!(record.frame.revision, frames[whole - 1].revision);
                    assert_eq!(record.is_stale, !ends.contains(&length));
                    assert!(!record.is_damaged, "{length} bytes");
                    assert_eq!(record.frame.entries.len(), [1, 2, 1][whole - 1]);
                    let state = ["one", "one", "two"][whole - 1];
                    assert_eq!(record.frame.text("state"), Some(state));
                }
                (other, _) => panic!("{length} bytes: {other:?}"),
            }
        }
        // One that does not open is no work of a crash: it was all there.
        bytes[ends[1] - 1] ^= 1;
        let record = decode(&keys, "i-1", &bytes).unwrap();
        assert!(record.is_stale && record.is_damaged);
        assert_eq!(record.frame.revision, 1);
    }

    #[test]
    fn a_record_opens_only_for_its_own_directory_and_with_its_key() {
        let (old, new) = ("the old key of this test", "the new key of this test");
        let bytes = frame(1, true, &[("", rows("x"))]).encode_whole(&keys(&[old]), "i-1").unwrap();
        assert!(!decode(&keys(&[old, new]), "i-1", &bytes).unwrap().is_stale);
        assert!(decode(&keys(&[new, old]), "i-1", &bytes).unwrap().is_stale, "another first key");
        let refused = decode(&keys(&[new]), "i-1", &bytes);
        assert!(matches!(refused, Err(RecordError::Key(_))), "{refused:?}");
        let refused = decode(&keys(&[old]), "i-2", &bytes);
        assert!(matches!(refused, Err(RecordError::Damaged(_))), "{refused:?}");
    }
}
