//! Faults of the network, by the switch: partitions of every shape, delay, loss, repeated frames.
//!
//! Changes of a direction are added to what other faults did to it, and taken back alone.

use std::time::Duration;

use faults::switch::{Link, Port, Switch};
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::Nemesis;

type Directions = Vec<(Port, Port)>;

const NO_SWITCH: &str = "this run has no switch";

impl Nemesis {
    fn ports(&self) -> Vec<Port> {
        let members = (0..self.world.cluster.servers.len()).map(Port::Member);
        members.chain([Port::Clients]).collect()
    }

    /// Changes directions, waits, and changes them back.
    async fn disturb(
        &self,
        directions: &Directions,
        time_ms: u64,
        begin: impl Fn(&mut Link),
        end: impl Fn(&mut Link),
    ) -> Result<(), &'static str> {
        let switch: &Switch = self.world.cluster.switch.as_ref().ok_or(NO_SWITCH)?;
        directions.iter().for_each(|&(from, to)| switch.change(from, to, &begin));
        self.hold(time_ms).await;
        directions.iter().for_each(|&(from, to)| switch.change(from, to, &end));
        Ok(())
    }

    pub(super) async fn partition(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let (shape, directions) = self.shape(random);
        let time_ms = random.random_range(200..4000);
        // Flapping: short cuts, one after the other.
        let flaps = if random.random_bool(0.2) { random.random_range(2..6) } else { 1 };
        for _ in 0..flaps {
            self.disturb(
                &directions,
                time_ms / flaps,
                |link| link.blocked = true,
                |link| link.blocked = false,
            )
            .await?;
            if flaps > 1 {
                self.hold(random.random_range(50..400)).await;
            }
        }
        let flapping = if flaps > 1 { format!(", {flaps} times") } else { String::new() };
        Ok(format!("partition: {shape}, {time_ms} ms{flapping}"))
    }

    fn shape(&self, random: &mut StdRng) -> (String, Directions) {
        let size = self.world.cluster.servers.len();
        let victim = self.victim(random);
        let mut order: Vec<usize> = (0..size).collect();
        order.shuffle(random);
        let apart = |a: &[Port], b: &[Port]| -> Directions {
            a.iter().flat_map(|&a| b.iter().flat_map(move |&b| [(a, b), (b, a)])).collect()
        };
        let members = |some: &[usize]| -> Vec<Port> { some.iter().copied().map(Port::Member).collect() };
        let others: Vec<usize> = (0..size).filter(|&at| at != victim).collect();
        let name = self.named(victim);
        if size == 1 {
            return ("clients cut off".to_owned(), apart(&[Port::Member(0)], &[Port::Clients]));
        }
        match random.random_range(0..8) {
            0 => {
                let rest = [members(&others), vec![Port::Clients]].concat();
                (format!("{name} alone"), apart(&[Port::Member(victim)], &rest))
            }
            1 => (format!("{name} with the clients"), apart(&[Port::Member(victim)], &members(&others))),
            2 => {
                let (some, rest) = order.split_at(size / 2);
                (format!("{some:?} from {rest:?}"), apart(&members(some), &members(rest)))
            }
            3 => {
                // Each sees a majority, no two the same one.
                let cut = |at: usize| {
                    let across = (order[at], order[(at + size / 2) % size]);
                    apart(&[Port::Member(across.0)], &[Port::Member(across.1)])
                };
                let cuts = if size > 3 { size } else { 1 };
                ("ring of majorities".to_owned(), (0..cuts).flat_map(cut).collect())
            }
            4 => {
                let (bridge, rest) = (order[0], &order[1..]);
                let (left, right) = rest.split_at(rest.len() / 2);
                (format!("m{bridge} as the bridge"), apart(&members(left), &members(right)))
            }
            5 => {
                let out: Directions =
                    others.iter().map(|&other| (Port::Member(victim), Port::Member(other))).collect();
                let back = random.random_bool(0.5);
                let way = if back { "hears nobody" } else { "is not heard" };
                let turned = out.iter().map(|&(from, to)| if back { (to, from) } else { (from, to) });
                (format!("{name} {way}"), turned.collect())
            }
            6 => (format!("clients from {name}"), apart(&[Port::Member(victim)], &[Port::Clients])),
            _ => {
                let (a, b) = (order[0], order[1]);
                (format!("m{a} to m{b}"), vec![(Port::Member(a), Port::Member(b))])
            }
        }
    }

    /// All directions, or those of one end.
    fn many_directions(&self, random: &mut StdRng) -> (String, Directions) {
        let ports = self.ports();
        let all = ports.iter().flat_map(|&a| ports.iter().map(move |&b| (a, b))).filter(|(a, b)| a != b);
        let all: Directions = all.collect();
        if random.random_bool(0.4) {
            return ("all".to_owned(), all);
        }
        let at = self.victim(random);
        let one = Port::Member(at);
        (self.named(at), all.into_iter().filter(|&(a, b)| a == one || b == one).collect())
    }

    pub(super) async fn delay(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let (whose, directions) = self.many_directions(random);
        let delay = Duration::from_millis(random.random_range(1..150));
        let jitter = Duration::from_millis(random.random_range(0..100));
        let time_ms = random.random_range(300..4000);
        let reorder = if random.random_bool(0.5) { 0.1 } else { 0.0 };
        let begin = |link: &mut Link| (link.delay, link.jitter, link.reorder) = (delay, jitter, reorder);
        let end = |link: &mut Link| (link.delay, link.jitter, link.reorder) = Default::default();
        self.disturb(&directions, time_ms, begin, end).await?;
        Ok(format!("delay {delay:?} and up to {jitter:?} more: {whose}, {time_ms} ms"))
    }

    pub(super) async fn lose(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let (whose, directions) = self.many_directions(random);
        let loss = random.random_range(0.01..0.3);
        let time_ms = random.random_range(300..4000);
        self.disturb(&directions, time_ms, |link| link.loss = loss, |link| link.loss = 0.0).await?;
        Ok(format!("loss {:.0} %: {whose}, {time_ms} ms", loss * 100.0))
    }

    pub(super) async fn duplicate(&self, random: &mut StdRng) -> Result<String, &'static str> {
        let (whose, directions) = self.many_directions(random);
        let share = random.random_range(0.05..0.5);
        let time_ms = random.random_range(300..4000);
        self.disturb(&directions, time_ms, |link| link.duplicate = share, |link| link.duplicate = 0.0)
            .await?;
        Ok(format!("duplicate {:.0} %: {whose}, {time_ms} ms", share * 100.0))
    }
}
