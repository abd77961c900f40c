//! Handles: what a C program holds instead of pointers into this library.
//!
//! A handle looks like a pointer and is none: it is an index, a generation and a kind. It is never dereferenced, so that NULL, a handle
//! that was freed, a handle of another kind and garbage are all refused with an error. A place that is used again has
//! another generation.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::entry::Failure;

// Index, generation and kind need 64 bits.
const _: () = assert!(size_of::<usize>() == 8, "handles are made for 64-bit systems");

const INDEX_BITS: u32 = 28;
const GENERATION_BITS: u32 = 31;
const KIND_SHIFT: u32 = INDEX_BITS + GENERATION_BITS;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: usize = (1 << GENERATION_BITS) - 1;
/// Places in the first segment; each further one has twice as many as the one before it.
const FIRST_SEGMENT: usize = 64;
const SEGMENTS: usize = 22;

/// Objects that a C program can hold.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// How many objects live: what a program has not freed.
pub(crate) fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// A place for one object.
struct Slot<T> {
    inner: Mutex<Held<T>>,
}

/// The generation of a place, and what is there now.
type Held<T> = (usize, Option<Arc<T>>);

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The objects of one kind. Looking one up takes only the lock of its place.
pub(crate) struct Table<T> {
    kind: usize,
    name: &'static str,
    segments: [OnceLock<Box<[Slot<T>]>>; SEGMENTS],
    free: Mutex<Free>,
}

struct Free {
    places: Vec<usize>,
    next: usize,
}

impl<T> Table<T> {
    /// A table for one kind of object, which has a number of its own from 1 to 31 and a name for error texts.
    pub(crate) const fn new(kind: usize, name: &'static str) -> Table<T> {
        assert!(kind > 0 && kind < 32);
        Table {
            kind,
            name,
            segments: [const { OnceLock::new() }; SEGMENTS],
            free: Mutex::new(Free { places: Vec::new(), next: 0 }),
        }
    }

    /// The segment of a place, and the place in it.
    fn locate(index: usize) -> (usize, usize) {
        let above = index + FIRST_SEGMENT;
        let segment = above.ilog2() - FIRST_SEGMENT.ilog2();
        (segment as usize, above - (FIRST_SEGMENT << segment))
    }

    fn slot(&self, index: usize) -> Option<&Slot<T>> {
        let (segment, at) = Self::locate(index);
        self.segments.get(segment)?.get()?.get(at)
    }

    /// Takes an object in and returns its handle. `None` when there is no place left, at about 268 million objects.
    pub(crate) fn insert(&self, object: Arc<T>) -> Option<usize> {
        let index = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            match free.places.pop() {
                Some(index) => index,
                None => {
                    let index = free.next;
                    let (segment, _) = Self::locate(index);
                    self.segments.get(segment)?.get_or_init(|| {
                        let slot = || Slot { inner: Mutex::new((1, None)) };
                        (0..FIRST_SEGMENT << segment).map(|_| slot()).collect()
                    });
                    free.next += 1;
                    index
                }
            }
        };
        let mut inner = self.slot(index)?.lock();
        inner.1 = Some(object);
        LIVE.fetch_add(1, Ordering::Relaxed);
        Some(self.kind << KIND_SHIFT | inner.0 << INDEX_BITS | index)
    }

    fn find(&self, handle: usize) -> Result<MutexGuard<'_, Held<T>>, Failure> {
        let name = self.name;
        if handle == 0 {
            return Err(Failure::invalid(format!("the {name} is NULL")));
        }
        if handle >> KIND_SHIFT != self.kind {
            return Err(Failure::stale(format!("this is no {name}")));
        }
        let stale = || Failure::stale(format!("the {name} was freed already"));
        let inner = self.slot(handle & INDEX_MASK).ok_or_else(stale)?.lock();
        if inner.0 != handle >> INDEX_BITS & GENERATION_MASK || inner.1.is_none() {
            return Err(stale());
        }
        Ok(inner)
    }

    /// The object behind a handle.
    pub(crate) fn get(&self, handle: usize) -> Result<Arc<T>, Failure> {
        let inner = self.find(handle)?;
        inner.1.clone().ok_or_else(|| Failure::stale(String::new()))
    }

    /// Does something short with the object behind a handle, under the lock of its place: without counting a reference, and nothing that waits or
    /// calls the application.
    pub(crate) fn with<R>(
        &self,
        handle: usize,
        work: impl FnOnce(&T) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let inner = self.find(handle)?;
        inner.1.as_deref().map_or_else(|| Err(Failure::stale(String::new())), work)
    }

    /// Takes an object out: its handle is stale from now on, for every thread.
    pub(crate) fn remove(&self, handle: usize) -> Result<Arc<T>, Failure> {
        let mut inner = self.find(handle)?;
        let object = inner.1.take().ok_or_else(|| Failure::stale(String::new()))?;
        inner.0 += 1;
        // A place whose generations are used up is not used again.
        let reusable = inner.0 < GENERATION_MASK;
        drop(inner);
        LIVE.fetch_sub(1, Ordering::Relaxed);
        if reusable {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.places.push(handle & INDEX_MASK);
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::code;

    #[test]
    fn a_handle_is_good_until_it_is_freed_and_never_again() {
        static TABLE: Table<u32> = Table::new(1, "thing");
        let handle = TABLE.insert(Arc::new(5)).unwrap();
        assert_eq!(*TABLE.get(handle).unwrap(), 5);
        assert_eq!(*TABLE.remove(handle).unwrap(), 5);
        assert_eq!(TABLE.remove(handle).unwrap_err().code, code::TOWLINE_ERROR_STALE_HANDLE);
        // The place is used again, under another handle.
        let next = TABLE.insert(Arc::new(6)).unwrap();
        assert_ne!(next, handle);
        assert_eq!(next & INDEX_MASK, handle & INDEX_MASK);
        assert!(TABLE.get(handle).is_err());
        assert_eq!(*TABLE.get(next).unwrap(), 6);
        TABLE.remove(next).unwrap();
    }

    #[test]
    fn null_garbage_and_other_kinds_are_refused() {
        static THINGS: Table<u32> = Table::new(1, "thing");
        static OTHERS: Table<u32> = Table::new(2, "other");
        let thing = THINGS.insert(Arc::new(1)).unwrap();
        assert_eq!(OTHERS.get(thing).unwrap_err().code, code::TOWLINE_ERROR_STALE_HANDLE);
        assert_eq!(THINGS.get(0).unwrap_err().code, code::TOWLINE_ERROR_INVALID_ARGUMENT);
        for garbage in [1, 8, usize::MAX, thing ^ (1 << INDEX_BITS), thing | INDEX_MASK] {
            assert!(THINGS.get(garbage).is_err(), "{garbage:x}");
        }
        THINGS.remove(thing).unwrap();
    }

    #[test]
    fn many_objects_have_different_handles() {
        static TABLE: Table<usize> = Table::new(3, "thing");
        let handles: Vec<usize> = (0..1000).map(|n| TABLE.insert(Arc::new(n)).unwrap()).collect();
        for (at, handle) in handles.iter().enumerate() {
            assert_eq!(*TABLE.get(*handle).unwrap(), at);
        }
        for handle in handles {
            TABLE.remove(handle).unwrap();
        }
    }
}
