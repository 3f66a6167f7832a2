//! State that the warps of a block share: memory, counters, findings.

use std::collections::HashMap;

use super::Launched;
use super::shared::Shared;
use super::track::Track;
use super::warp::Warp;
use crate::counters::Counters;
use crate::program::{Inst, Op};
use crate::report::{Finding, FindingKind, MAX_FINDINGS};
use crate::touch::Touches;

/// The finding that stops a block.
pub(crate) struct Stop(pub Box<Finding>);

/// State of one block.
pub(crate) struct State {
    pub block: [u32; 3],
    pub shared: Shared,
    pub counters: Counters,
    pub findings: Vec<Finding>,
    seen: HashMap<(FindingKind, u32), usize>,
    pub steps: u64,
    /// Allocation of the last global access
    pub last: usize,
    /// Lists that are reused by each instruction
    pub track: Track,
    /// Whether races between blocks are searched, and the ranges that this block touched
    pub races: bool,
    pub touches: Touches,
}

/// Place of a fault: lane, address, variable.
#[derive(Default)]
pub(crate) struct Site {
    pub lane: usize,
    pub address: Option<u64>,
    pub place: Option<(String, u64)>,
}

impl State {
    pub fn new(launched: &Launched) -> Self {
        Self {
            block: [0; 3],
            shared: Shared::new(launched),
            counters: Counters::default(),
            findings: Vec::new(),
            seen: HashMap::new(),
            steps: 0,
            last: 0,
            track: Track::default(),
            races: launched.races,
            touches: Touches::default(),
        }
    }

    pub fn start(&mut self, block: [u32; 3]) {
        self.block = block;
        self.shared.start();
        self.counters = Counters::default();
        self.findings.clear();
        self.seen.clear();
        self.steps = 0;
        self.last = 0;
    }

    /// Records a finding; the message is built only the first time.
    #[cold]
    pub fn report(
        &mut self,
        launched: &Launched,
        warp: &Warp,
        inst: &Inst,
        kind: FindingKind,
        site: Site,
        message: impl FnOnce() -> String,
    ) {
        if let Some(&at) = self.seen.get(&(kind, inst.line)) {
            self.findings[at].count += 1;
            return;
        }
        if self.findings.len() >= MAX_FINDINGS {
            return;
        }
        self.seen.insert((kind, inst.line), self.findings.len());
        let finding = self.finding(launched, warp.index, inst, kind, site, message());
        self.findings.push(finding);
    }

    /// Builds a finding.
    pub fn finding(
        &self,
        launched: &Launched,
        warp: u32,
        inst: &Inst,
        kind: FindingKind,
        site: Site,
        message: String,
    ) -> Finding {
        let text = launched.lines.get(inst.line.saturating_sub(1) as usize);
        Finding {
            kind,
            kernel: launched.kernel.to_owned(),
            line: inst.line,
            instruction: text.map_or(String::new(), |t| t.trim().to_owned()),
            block: self.block,
            warp,
            lane: site.lane as u32,
            address: site.address,
            place: site.place,
            message,
            count: 1,
        }
    }

    /// Ends the block with a finding.
    #[cold]
    pub fn stop(
        &self,
        launched: &Launched,
        warp: u32,
        inst: &Inst,
        kind: FindingKind,
        lane: usize,
        message: String,
    ) -> Stop {
        let site = Site { lane, ..Site::default() };
        Stop(Box::new(self.finding(launched, warp, inst, kind, site, message)))
    }

    /// Builds the finding for an unknown form.
    pub fn unknown(&self, launched: &Launched, warp: u32, inst: &Inst, lane: usize) -> Stop {
        let form = match inst.op {
            Op::Unknown(index) => launched.program.unknown.get(index as usize),
            _ => None,
        };
        let form = form.map_or("", |(_, name)| name.as_str());
        let message = format!("the form `{form}` is not known to this machine");
        self.stop(launched, warp, inst, FindingKind::UnknownInstruction, lane, message)
    }
}
