//! A table whose ids carry a generation.

/// Values by index and generation. Freed places are reused, last freed first.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<Place<T>>,
    free: Option<u32>,
    len: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    /// The value, or the next free place.
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Taken(T),
    Free(Option<u32>),
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Slots { places: Vec::new(), free: None, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts in what `make` returns for its index and generation.
    pub(crate) fn insert(&mut self, make: impl FnOnce(u32, u32) -> T) -> (u32, u32) {
        self.len += 1;
        if let Some(index) = self.free {
            let place = &mut self.places[index as usize];
            if let Content::Free(next) = place.content {
                self.free = next;
            }
            place.content = Content::Taken(make(index, place.generation));
            return (index, place.generation);
        }
        // A descriptor or a timer stands behind every entry, so u32 cannot run out.
        let index = self.places.len() as u32;
        self.places.push(Place { generation: 0, content: Content::Taken(make(index, 0)) });
        (index, 0)
    }

    pub(crate) fn get(&self, index: u32, generation: u32) -> Option<&T> {
        match self.places.get(index as usize) {
            Some(Place { generation: g, content: Content::Taken(value) }) if *g == generation => {
                Some(value)
            }
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        match self.places.get_mut(index as usize) {
            Some(Place { generation: g, content: Content::Taken(value) }) if *g == generation => {
                Some(value)
            }
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, index: u32, generation: u32) -> Option<T> {
        self.get(index, generation)?;
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1) & GENERATION_MASK;
        let content = std::mem::replace(&mut place.content, Content::Free(self.free));
        self.free = Some(index);
        self.len -= 1;
        match content {
            Content::Taken(value) => Some(value),
            Content::Free(_) => None,
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| match &place.content {
            Content::Taken(value) => Some(value),
            Content::Free(_) => None,
        })
    }
}

/// Generations have 28 bits, so that one fits into an io_uring `user_data` together with an index and a kind.
pub(crate) const GENERATION_MASK: u32 = (1 << 28) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_removed_value_is_refused_also_when_its_place_is_taken_again() {
        let mut slots = Slots::new();
        let (index, generation) = slots.insert(|_, _| "first");
        assert_eq!(slots.remove(index, generation), Some("first"));
        assert_eq!(slots.remove(index, generation), None);
        let (again, newer) = slots.insert(|_, _| "second");
        assert_eq!(again, index);
        assert_ne!(newer, generation);
        assert_eq!(slots.get(index, generation), None);
        assert_eq!(slots.get_mut(again, newer), Some(&mut "second"));
        assert_eq!(slots.len(), 1);
    }
}
