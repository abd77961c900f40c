//! Static routes: shortest paths by hops, and what was set by hand.

use std::collections::VecDeque;

/// Next links, by host and destination host.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// `next[at][target]`.
    next: Vec<Vec<Option<u32>>>,
    by_hand: Vec<(u32, u32, u32)>,
    stale: bool,
}

impl Routes {
    /// A host or a link was added.
    pub(crate) fn invalidate(&mut self) {
        self.stale = true;
    }

    pub(crate) fn set(&mut self, at: u32, target: u32, link: u32) {
        self.by_hand.push((at, target, link));
        self.stale = true;
    }

    /// The link that leads from `at` towards `target`. `links` gives the ends of each link.
    #[inline]
    pub(crate) fn next<L>(
        &mut self,
        at: u32,
        target: u32,
        hosts: usize,
        links: &[L],
        ends: fn(&L) -> (u32, u32),
    ) -> Option<u32> {
        if self.stale {
            self.compute(hosts, links, ends);
        }
        *self.next.get(at as usize)?.get(target as usize)?
    }

    /// Breadth first from each destination along the links backwards. Among equally short ways the link that
    /// was added first wins.
    fn compute<L>(&mut self, hosts: usize, links: &[L], ends: fn(&L) -> (u32, u32)) {
        self.next = vec![vec![None; hosts]; hosts];
        for target in 0..hosts {
            let mut distance = vec![usize::MAX; hosts];
            let mut queue = VecDeque::from([target]);
            distance[target] = 0;
            while let Some(at) = queue.pop_front() {
                for (index, link) in links.iter().enumerate() {
                    let (from, to) = ends(link);
                    let from = from as usize;
                    if to as usize == at && distance[from] == usize::MAX {
                        distance[from] = distance[at] + 1;
                        self.next[from][target] = Some(index as u32);
                        queue.push_back(from);
                    }
                }
            }
        }
        for (at, target, link) in &self.by_hand {
            self.next[*at as usize][*target as usize] = Some(*link);
        }
        self.stale = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_is_taken_and_a_route_by_hand_beats_it() {
        // 0 - 1 - 2 - 3 and a direct link 0 -> 2 added last.
        let links = [(0, 1), (1, 2), (2, 3), (3, 2), (2, 1), (1, 0), (0, 2)];
        let mut routes = Routes::default();
        routes.invalidate();
        let next =
            |routes: &mut Routes, at, target| routes.next(at, target, 5, &links, |ends| *ends);
        assert_eq!(next(&mut routes, 0, 3), Some(6));
        assert_eq!(next(&mut routes, 3, 0), Some(3));
        assert_eq!(next(&mut routes, 0, 4), None);
        routes.set(0, 3, 0);
        assert_eq!(next(&mut routes, 0, 3), Some(0));
        assert_eq!(next(&mut routes, 0, 2), Some(6));
    }
}
