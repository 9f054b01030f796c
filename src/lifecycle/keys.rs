//! The store's encryption key: proof that it is known, and sealing everything again with another.

use std::sync::Arc;

use super::fault::{Step, reach};
use crate::{
    credentials::{FINGERPRINT_BYTES, KeyError, Keyring},
    store::{SEALED, SealedColumn, Store, StoreError},
};

/// Where the store keeps proof of the encryption key.
pub(super) const KEY_PROOF: &str = "key proof";

/// Values that are sealed again in one transaction.
const BATCH: usize = 500;

/// A store that cannot be used with the keys that were given.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("cannot use the store")]
    Store(#[from] StoreError),
    /// The key is not the one that the store was written with.
    #[error(
        "the store was encrypted with another key; put the key that was used before among \
         encryption_keys (nothing was changed)"
    )]
    WrongKey(#[source] KeyError),
    /// A key that is still needed is not there any more.
    #[error(
        "{0} stored secrets were encrypted with a key that is not among encryption_keys any more; \
         put it back behind the first one, start the broker, and take it out when the log says \
         that it is not needed (nothing was changed)"
    )]
    MissingKey(u64),
    /// The key does not work.
    #[error("cannot encrypt")]
    Key(#[from] KeyError),
}

/// What sealing again did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Values that the first key seals now.
    pub resealed: u64,
    /// Places of those that no key opens, although the right one is there. They were left alone.
    pub damaged: Vec<String>,
}

/// Makes sure that the store can be read with `keys`, then seals with the first of them whatever
/// another one sealed. Killed in the middle, it goes on at the next call.
///
/// # Errors
/// [`StartError`]. With [`StartError::WrongKey`] and [`StartError::MissingKey`] nothing was changed.
pub async fn use_first_key(store: &Store, keys: &Arc<Keyring>) -> Result<Resealed, StartError> {
    let stale = prove(store, keys).await?;
    let mut done = Resealed::default();
    if stale == 0 {
        return Ok(done);
    }
    tracing::info!(secrets = stale, "the encryption key has changed; sealing everything anew");
    for column in SEALED {
        reseal_column(store, keys, column, stale, &mut done).await?;
    }
    for place in &done.damaged {
        tracing::error!(place, "a stored secret is damaged; it was left as it is");
    }
    if done.damaged.is_empty() {
        tracing::info!(
            secrets = done.resealed,
            "everything in the store is sealed with the first of encryption_keys; the records \
             beside the instances' data follow"
        );
    }
    Ok(done)
}

/// Proves the key; how many values another key than the first one sealed.
async fn prove(store: &Store, keys: &Keyring) -> Result<u64, StartError> {
    let read =
        store.read(|rows| Ok((rows.find_meta(KEY_PROOF)?, rows.count_sealed(FINGERPRINT_BYTES)?)));
    let (proof, counts) = read.await?;
    if let Some(proof) = &proof {
        keys.open(KEY_PROOF, proof).map_err(StartError::WrongKey)?;
    }
    let unknown = counts.iter().filter(|(fingerprint, _)| !keys.knows(fingerprint));
    let unknown: u64 = unknown.map(|(_, count)| count).sum();
    if unknown > 0 {
        return Err(StartError::MissingKey(unknown));
    }
    if proof.is_none() {
        let proof = keys.seal(KEY_PROOF, KEY_PROOF.as_bytes())?;
        let written = store.write(move |rows| Ok(Ok::<_, ()>(rows.set_meta(KEY_PROOF, &proof)?)));
        // The job itself refuses nothing.
        let _infallible = written.await?;
    }
    let first = keys.first_fingerprint()?;
    Ok(counts.iter().filter(|(known, _)| **known != first).map(|(_, count)| count).sum())
}

async fn reseal_column(
    store: &Store,
    keys: &Arc<Keyring>,
    column: SealedColumn,
    total: u64,
    done: &mut Resealed,
) -> Result<(), StartError> {
    let first = keys.first_fingerprint()?;
    let mut skip = 0;
    loop {
        let keys = Arc::clone(keys);
        // A batch is a transaction: each value is sealed by the old key or by the new one.
        let batch = store.write(move |rows| {
            let (mut resealed, mut damaged) = (0, Vec::new());
            for value in rows.list_sealed_unlike(&column, &first, skip, BATCH)? {
                match keys.reseal(&value.place, &value.sealed) {
                    Ok(sealed) => {
                        rows.replace_sealed(&column, &value, &sealed)?;
                        resealed += 1;
                    }
                    Err(KeyError::Damaged(_)) => damaged.push(value.place),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok((resealed, damaged)))
        });
        let (resealed, damaged) = batch.await??;
        if resealed == 0 && damaged.is_empty() {
            return Ok(());
        }
        skip += damaged.len();
        done.resealed += resealed;
        done.damaged.extend(damaged);
        tracing::info!(table = column.table, done = done.resealed, of = total, "sealed anew");
        reach(Step::KeysChanging);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(keys: &[&str]) -> Arc<Keyring> {
        Arc::new(Keyring::new(keys.iter().copied()).unwrap())
    }

    const OLD: &str = "the old key of these tests";
    const NEW: &str = "the new key of these tests";

    /// A store with 1,200 definitions that the old key sealed.
    async fn filled(directory: &std::path::Path) -> Store {
        let store = Store::open(directory).unwrap();
        let old = keyring(&[OLD]);
        assert_eq!(use_first_key(&store, &old).await.unwrap(), Resealed::default());
        let written = store.write(move |rows| {
            for number in 0..1200 {
                let sealed = old.seal(&format!("definition:{number}"), b"text").unwrap();
                rows.insert_definition(&number.to_string(), &sealed)?;
            }
            Ok(Ok::<(), ()>(()))
        });
        written.await.unwrap().unwrap();
        store
    }

    async fn definition(store: &Store, number: &'static str) -> Vec<u8> {
        store.read(|rows| rows.find_definition(number)).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn after_a_change_of_the_key_the_old_one_can_be_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = filled(directory.path()).await;
        let done = use_first_key(&store, &keyring(&[NEW, OLD])).await.unwrap();
        // With the proof.
        assert_eq!(done, Resealed { resealed: 1201, damaged: Vec::new() });
        let new = keyring(&[NEW]);
        assert_eq!(use_first_key(&store, &new).await.unwrap(), Resealed::default());
        for number in ["0", "700", "1199"] {
            let sealed = definition(&store, number).await;
            assert_eq!(new.open(&format!("definition:{number}"), &sealed).unwrap(), b"text");
        }
        let refused = use_first_key(&store, &keyring(&[OLD])).await.unwrap_err();
        assert!(matches!(refused, StartError::WrongKey(KeyError::UnknownKey)), "{refused:?}");
    }

    #[tokio::test]
    async fn a_key_that_is_still_needed_is_missed_before_anything_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let store = filled(directory.path()).await;
        let sealed = keyring(&[NEW]).seal("definition:5", b"text").unwrap();
        let column = SEALED[0];
        let written = store.write(move |rows| {
            let other = rows.list_sealed_unlike(&column, b"none", 5, 1)?.remove(0);
            rows.replace_sealed(&column, &other, &sealed)?;
            Ok(Ok::<_, ()>(other.place))
        });
        assert!(written.await.unwrap().unwrap().starts_with("definition:"));
        let before = definition(&store, "700").await;
        let third = "a third key of these tests";
        let refused = use_first_key(&store, &keyring(&[third, OLD])).await.unwrap_err();
        assert!(matches!(refused, StartError::MissingKey(1)), "{refused:?}");
        assert_eq!(definition(&store, "700").await, before);
    }

    #[tokio::test]
    async fn a_damaged_secret_is_named_and_left_alone_while_the_others_are_sealed_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = filled(directory.path()).await;
        let (column, old) = (SEALED[0], keyring(&[OLD]));
        let written = store.write(move |rows| {
            for value in rows.list_sealed_unlike(&column, b"none", 0, 3)? {
                let elsewhere = old.seal("elsewhere", b"text").unwrap();
                rows.replace_sealed(&column, &value, &elsewhere)?;
            }
            Ok(Ok::<(), ()>(()))
        });
        written.await.unwrap().unwrap();
        let done = use_first_key(&store, &keyring(&[NEW, OLD])).await.unwrap();
        assert_eq!(done.resealed, 1198);
        assert_eq!(done.damaged, ["definition:0", "definition:1", "definition:10"]);
    }
}
