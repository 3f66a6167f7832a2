//! One block: its warps take turns; each runs until it waits at a barrier or ends.

use super::Launched;
use super::state::{Site, State, Stop};
use super::step::Pause;
use super::warp::{Status, Warp, lanes};
use crate::counters::Counters;
use crate::program::{BarKind, Barrier, NONE, Op, Reg};
use crate::report::{Finding, FindingKind};
use crate::touch::Touch;

/// Number of barriers of a block.
const BARRIERS: usize = 16;

/// Result of one or several blocks.
#[derive(Default)]
pub(crate) struct Outcome {
    pub counters: Counters,
    pub findings: Vec<Finding>,
    pub stopped: Option<Box<Finding>>,
    pub touches: Vec<Touch>,
}

/// Warps and lanes that have arrived at a barrier.
#[derive(Debug, Clone, Copy, Default)]
struct Arrivals {
    /// Warps that wait
    waiting: u32,
    /// Warps that arrived, including those that do not wait
    warps: u32,
    /// Threads needed; 0 for all
    threads: u32,
    /// Lanes whose predicate holds, and lanes in all
    truths: u32,
    lanes: u32,
}

/// A block, reused for one block index after another.
pub(crate) struct Block {
    state: State,
    warps: Vec<Warp>,
    barriers: [Arrivals; BARRIERS],
}

impl Block {
    pub fn new(launched: &Launched) -> Self {
        let count = launched.threads.div_ceil(32);
        Self {
            state: State::new(launched),
            warps: (0..count).map(|index| Warp::new(launched, index)).collect(),
            barriers: [Arrivals::default(); BARRIERS],
        }
    }

    /// Runs one block to its end.
    pub fn run(&mut self, launched: &Launched, block: [u32; 3]) -> Outcome {
        self.state.start(block);
        self.barriers = [Arrivals::default(); BARRIERS];
        self.warps.iter_mut().for_each(|warp| warp.start(launched, block));
        let stopped = self.turns(launched).err().map(|stop| stop.0);
        let [gx, gy, _] = launched.grid;
        let number = block[0] + gx * (block[1] + gy * block[2]);
        Outcome {
            counters: self.state.counters,
            findings: std::mem::take(&mut self.state.findings),
            stopped,
            touches: self.state.touches.take(number),
        }
    }

    fn turns(&mut self, launched: &Launched) -> Result<(), Stop> {
        loop {
            let mut ran = false;
            for index in 0..self.warps.len() {
                if self.warps[index].status != Status::Ready {
                    continue;
                }
                ran = true;
                match self.warps[index].run(launched, &mut self.state)? {
                    Pause::Done => {
                        self.warps[index].status = Status::Done;
                        self.state.shared.exit(index);
                        (0..BARRIERS as u32).for_each(|id| self.release(launched, id));
                    }
                    Pause::Barrier(pc) => self.arrive(launched, index, pc)?,
                }
            }
            if self.warps.iter().all(|w| w.status == Status::Done) {
                return Ok(());
            }
            if !ran {
                return Err(self.deadlock(launched));
            }
        }
    }

    /// Records that a warp has arrived at the barrier at `pc`.
    fn arrive(&mut self, launched: &Launched, index: usize, pc: u32) -> Result<(), Stop> {
        let inst = &launched.program.code[pc as usize];
        let Op::Barrier(barrier) = &inst.op else { return Ok(()) };
        let warp = &mut self.warps[index];
        let first = warp.alive.trailing_zeros() as usize % 32;
        let value = |row: u32| warp.r32[row as usize][first];
        let id = value(barrier.id);
        let threads = if barrier.threads == NONE { 0 } else { value(barrier.threads) };
        if id as usize >= BARRIERS {
            let message = format!("there is no barrier {id}, a block has {BARRIERS}");
            let kind = FindingKind::DivergentBarrier;
            return Err(self.state.stop(launched, index as u32, inst, kind, first, message));
        }
        self.state.counters.barriers += 1;
        let arrivals = &mut self.barriers[id as usize];
        arrivals.threads = arrivals.threads.max(threads);
        arrivals.warps |= 1 << index;
        if let Some(reduce) = barrier.reduce {
            let truth = warp.masks[reduce.p as usize] ^ if reduce.negated { u32::MAX } else { 0 };
            arrivals.truths += (truth & warp.alive).count_ones();
            arrivals.lanes += warp.alive.count_ones();
        }
        if !barrier.arrive {
            arrivals.waiting |= 1 << index;
            warp.status = Status::Waiting(id);
        } else {
            warp.passed_barrier();
        }
        self.release(launched, id);
        Ok(())
    }

    /// Releases the warps at a barrier if all have arrived.
    fn release(&mut self, launched: &Launched, id: u32) {
        let arrivals = self.barriers[id as usize];
        if arrivals.warps == 0 {
            return;
        }
        let complete = if arrivals.threads == 0 {
            let live = |w: &Warp| w.status != Status::Done;
            let missing = |(i, w): (usize, &Warp)| live(w) && arrivals.warps >> i & 1 == 0;
            !self.warps.iter().enumerate().any(missing)
        } else {
            arrivals.warps.count_ones() * 32 >= arrivals.threads
        };
        if !complete {
            return;
        }
        self.barriers[id as usize] = Arrivals::default();
        self.state.shared.synchronise(arrivals.warps);
        for index in lanes(arrivals.waiting) {
            let warp = &mut self.warps[index];
            warp.status = Status::Ready;
            warp.syncs += 1;
            let Some(pc) = warp.passed_barrier() else { continue };
            if let Op::Barrier(barrier) = &launched.program.code[pc as usize].op {
                reduce(warp, barrier, &arrivals);
            }
        }
    }

    fn deadlock(&self, launched: &Launched) -> Stop {
        let waiting = self.warps.iter().find(|w| matches!(w.status, Status::Waiting(_)));
        let (index, pc) = waiting.map_or((0, 0), |w| (w.index, w.barrier_pc()));
        let inst = &launched.program.code[pc as usize];
        let list: Vec<String> = self
            .warps
            .iter()
            .filter_map(|w| match w.status {
                Status::Waiting(id) => Some(format!("warp {} at barrier {id}", w.index)),
                _ => None,
            })
            .take(8)
            .collect();
        let message = format!("no warp can go on: {}", list.join(", "));
        let finding = self.state.finding(
            launched,
            index,
            inst,
            FindingKind::Deadlock,
            Site::default(),
            message,
        );
        Stop(Box::new(finding))
    }
}

/// Writes the result of `bar.red` to a warp.
fn reduce(warp: &mut Warp, barrier: &Barrier, arrivals: &Arrivals) {
    let Some(red) = barrier.reduce else { return };
    let value = match red.kind {
        BarKind::Popc => arrivals.truths,
        BarKind::And => u32::from(arrivals.truths == arrivals.lanes),
        BarKind::Or => u32::from(arrivals.truths > 0),
    };
    let alive = warp.alive;
    match red.d {
        Reg::P(p) => warp.set_mask(p, if value == 1 { u32::MAX } else { 0 }, alive),
        d => lanes(alive).for_each(|lane| warp.set(d, lane, u64::from(value))),
    }
}
