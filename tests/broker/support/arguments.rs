//! What processes show of themselves: their argument lists, which everybody on the machine can read.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::Issued;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(30);
/// The same while a broker is asked for something: then hooks run, and clients of them that live for
/// milliseconds.
const SHORT_PAUSE: Duration = Duration::from_millis(5);
/// A process is read at its first looks, because it shows the arguments of its parent until it
/// has become its own program, and at every few later ones: a shell may become another program.
const FIRST_LOOKS: u32 = 6;
const LATER_LOOKS: u32 = 4;

/// Reads the argument lists of all processes of the machine, those in containers among them, from
/// its first use to the end of this test's process.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    seen: Mutex<Seen>,
    hurries: AtomicUsize,
}

#[derive(Debug, Default)]
struct Seen {
    lists: BTreeSet<String>,
    /// How often each process that there is has been seen.
    looks: HashMap<u32, u32>,
}

/// Looks are close together while it lives.
#[derive(Debug)]
pub(crate) struct Hurry(&'static Arguments);

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.hurries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arguments {
    /// The watch of this process; starts it.
    pub(crate) fn watch() -> &'static Self {
        static WATCH: OnceLock<&Arguments> = OnceLock::new();
        WATCH.get_or_init(|| {
            let watch: &'static Self = Box::leak(Box::default());
            std::thread::spawn(|| {
                loop {
                    watch.look();
                    let hurry = watch.hurries.load(Ordering::Relaxed) > 0;
                    std::thread::sleep(if hurry { SHORT_PAUSE } else { PAUSE });
                }
            });
            watch
        })
    }

    pub(crate) fn hurry(&'static self) -> Hurry {
        self.hurries.fetch_add(1, Ordering::Relaxed);
        Hurry(self)
    }

    /// Where an argument list so far shows a secret.
    pub(crate) fn find(&self, issued: &Issued) -> Option<String> {
        self.look();
        let seen = self.seen.lock().expect("no holder panics");
        seen.lists.iter().find_map(|list| issued.find_in(list))
    }

    fn look(&self) {
        let mut seen = self.seen.lock().expect("no holder panics");
        let mut looks = HashMap::with_capacity(seen.looks.len() + 1);
        for entry in fs::read_dir("/proc").expect("this is Linux").flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let count = seen.looks.get(&process).map_or(0, |count| count + 1);
            looks.insert(process, count);
            if count >= FIRST_LOOKS && !count.is_multiple_of(LATER_LOOKS) {
                continue;
            }
            // It may have ended meanwhile.
            let Ok(list) = fs::read(entry.path().join("cmdline")) else { continue };
            let list = String::from_utf8_lossy(&list).replace('\0', " ");
            if !list.is_empty() && !seen.lists.contains(&list) {
                seen.lists.insert(list);
            }
        }
        seen.looks = looks;
    }
}
