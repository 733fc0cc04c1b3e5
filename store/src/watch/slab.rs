//! A slab: values under small, reusable, generation-checked handles.
//! A handle kept in a queue after its value was removed answers `None`, so queues are cleaned lazily.

/// Names one value. The generation tells a reused place from the value that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> Handle {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place { generation: 0, value: None });
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 values")
            }
        };
        let place = &mut self.places[index as usize];
        place.value = Some(value);
        Handle { index, generation: place.generation }
    }

    pub fn get(&self, handle: Handle) -> Option<&T> {
        let place = self.places.get(handle.index as usize)?;
        if place.generation == handle.generation { place.value.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let place = self.places.get_mut(handle.index as usize)?;
        if place.generation == handle.generation { place.value.as_mut() } else { None }
    }

    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let place = self.places.get_mut(handle.index as usize)?;
        if place.generation != handle.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(handle.index);
        Some(value)
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.value.as_ref())
    }

    /// Handles of all values, in place order.
    pub fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.places
            .iter()
            .enumerate()
            .filter(|(_, place)| place.value.is_some())
            .map(|(index, place)| Handle { index: index as u32, generation: place.generation })
    }
}
