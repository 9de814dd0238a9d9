//! The loop itself.

use godwit_model::{Decision, MigrationId, NodeName, Outcome, Snapshot, Time, WorkloadName};
use godwit_policy::Policy;

use crate::admission::Admission;
use crate::index::{Index, Unknown, Workload};
use crate::{ControlConfig, Counters, Decided, Event, Order, Output, Refusal, RequestError, Verdict};

/// A move that somebody wants.
#[derive(Clone, Copy)]
struct Asked<'a> {
    workload: &'a WorkloadName,
    to: &'a NodeName,
    rule: &'a str,
    reason: &'a str,
}

/// The loop: see the crate.
pub struct Controller {
    config: ControlConfig,
    policy: Box<dyn Policy>,
    index: Index,
    admission: Admission,
    counters: Counters,
    next: Time,
    /// The latest time that was handed in: time does not run backwards.
    now: Time,
}

impl Controller {
    /// A loop that knows nothing yet. Its first round is `decide_every` after the start of the run. An interval of
    /// zero, which [`ControlConfig::validate`] refuses, counts as a microsecond.
    pub fn new(config: ControlConfig, policy: Box<dyn Policy>) -> Self {
        let mut controller = Self {
            config,
            policy,
            index: Index::default(),
            admission: Admission::default(),
            counters: Counters::default(),
            next: Time::ZERO,
            now: Time::ZERO,
        };
        controller.schedule();
        controller
    }

    /// Takes note of an event.
    pub fn handle(&mut self, now: Time, event: Event) {
        let now = self.advance(now);
        let known = match event {
            Event::NodeReady { node, ready } => {
                self.index.set_ready(node, ready);
                Ok(())
            }
            Event::RttMeasured { user, node, rtt } => self.index.set_rtt(now, user, node, rtt),
            Event::LoadMeasured { node, load } => self.index.set_load(now, &node, load),
            Event::WorkloadAt { workload, kind, node, users } => {
                self.admission.seen(&workload);
                self.index.set_workload(workload, Workload { kind, node, users })
            }
            Event::MigrationEnded { id, outcome } => self.ended(now, id, outcome),
        };
        if known.is_err() {
            self.counters.unknown += 1;
        }
    }

    fn ended(&mut self, now: Time, id: MigrationId, outcome: Outcome) -> Result<(), Unknown> {
        let order = self.admission.end(&self.config, now, id, outcome).ok_or(Unknown)?;
        match outcome {
            Outcome::Done => {
                self.index.place(&order.workload, order.to);
                self.counters.done += 1;
            }
            Outcome::RolledBack => {
                self.index.place(&order.workload, order.from);
                self.counters.rolled_back += 1;
            }
            Outcome::Lost => self.counters.lost += 1,
        }
        Ok(())
    }

    /// Asks the policy when a round is due; otherwise nothing comes out. One [`Output::Decided`] comes first, then
    /// the migrations that were admitted.
    pub fn poll(&mut self, now: Time) -> Vec<Output> {
        let now = self.advance(now);
        if now < self.next {
            return Vec::new();
        }
        self.schedule();
        let (snapshot, stale) = self.index.snapshot(now, self.config.stale_after);
        self.counters.rounds += 1;
        self.counters.stale_figures += stale;
        let decisions = self.policy.decide(&snapshot);
        self.counters.decisions += decisions.len() as u64;
        let mut orders = Vec::new();
        let judged = decisions
            .into_iter()
            .map(|decision| {
                let verdict = self.judge(now, &decision, &mut orders);
                (decision, verdict)
            })
            .collect();
        let mut outputs = vec![Output::Decided(Decided { snapshot, decisions: judged })];
        outputs.extend(orders.into_iter().map(Output::Migrate));
        outputs
    }

    fn judge(&mut self, now: Time, decision: &Decision, orders: &mut Vec<Order>) -> Verdict {
        let Some(to) = decision.target() else { return Verdict::Stay };
        self.counters.moves_asked += 1;
        let asked = Asked { workload: &decision.workload, to, rule: &decision.rule, reason: &decision.reason };
        match self.admit(now, asked, false) {
            Ok(order) => {
                self.counters.admitted += 1;
                let id = order.id;
                orders.push(order);
                Verdict::Admitted { id }
            }
            Err(why) => {
                if matches!(why, Refusal::UnknownWorkload { .. } | Refusal::UnknownNode { .. }) {
                    self.counters.unknown += 1;
                }
                Verdict::Refused { why }
            }
        }
    }

    /// A person wants a workload moved: to a node, or to where the policy would move it. The same admission as for the
    /// policy's decisions, except that the workload need not rest. The order that comes back is to be made.
    pub fn request(
        &mut self,
        now: Time,
        workload: &WorkloadName,
        to: Option<&NodeName>,
    ) -> Result<Order, RequestError> {
        let now = self.advance(now);
        if self.index.workload(workload).is_none() {
            let known = self.index.workloads().map(ToString::to_string).collect();
            return Err(RequestError::UnknownWorkload { workload: workload.clone(), known });
        }
        let (to, reason) = match to {
            Some(node) => (node.clone(), format!("asked for by hand: to {node}")),
            None => self.best_place(now, workload)?,
        };
        let asked = Asked { workload, to: &to, rule: Order::MANUAL, reason: &reason };
        let order = self.admit(now, asked, true).map_err(|why| match why {
            Refusal::UnknownNode { node } => {
                let known = self.index.nodes().map(ToString::to_string).collect();
                RequestError::UnknownNode { node, known }
            }
            Refusal::AlreadyThere { node } => RequestError::AlreadyThere { workload: workload.clone(), node },
            why => RequestError::Refused { workload: workload.clone(), why },
        })?;
        self.counters.admitted_manual += 1;
        Ok(order)
    }

    fn best_place(&self, now: Time, workload: &WorkloadName) -> Result<(NodeName, String), RequestError> {
        let decisions = self.policy.decide(&self.snapshot(now));
        let decision = decisions.into_iter().find(|decision| &decision.workload == workload);
        let reason = decision.as_ref().map_or_else(|| "it gave no decision".into(), |d| d.reason.clone());
        match decision.as_ref().and_then(Decision::target) {
            Some(to) => Ok((to.clone(), format!("asked for by hand: {reason}"))),
            None => Err(RequestError::NoBetterPlace {
                workload: workload.clone(),
                policy: self.policy.name().into(),
                reason,
            }),
        }
    }

    fn admit(&mut self, now: Time, asked: Asked<'_>, by_hand: bool) -> Result<Order, Refusal> {
        let checked = self.check(now, asked, by_hand);
        let from = checked.inspect_err(|why| *self.counters.refused.entry(why.label().into()).or_default() += 1)?;
        let order = Order {
            id: self.admission.next_id(),
            workload: asked.workload.clone(),
            from,
            to: asked.to.clone(),
            rule: asked.rule.into(),
            reason: asked.reason.into(),
        };
        self.admission.begin(order.clone());
        Ok(order)
    }

    /// Gives the node that it would leave.
    fn check(&self, now: Time, asked: Asked<'_>, by_hand: bool) -> Result<NodeName, Refusal> {
        let Asked { workload, to, .. } = asked;
        let Some(Workload { node: from, .. }) = self.index.workload(workload) else {
            return Err(Refusal::UnknownWorkload { workload: workload.clone() });
        };
        match self.index.ready(to) {
            None => return Err(Refusal::UnknownNode { node: to.clone() }),
            Some(_) if from == to => return Err(Refusal::AlreadyThere { node: to.clone() }),
            Some(false) => return Err(Refusal::NotReady { node: to.clone() }),
            Some(true) => {}
        }
        self.admission.check(&self.config, now, workload, from, to, by_hand)?;
        Ok(from.clone())
    }

    /// When the next round is due.
    pub fn next_poll(&self) -> Time {
        self.next
    }

    /// The next point after now of the grid of rounds; rounds that were missed are not made up for.
    fn schedule(&mut self) {
        let every = u64::try_from(self.config.decide_every.as_micros()).unwrap_or(u64::MAX).max(1);
        let rounds = self.now.micros() / every + 1;
        self.next = Time::from_micros(rounds.saturating_mul(every));
    }

    fn advance(&mut self, now: Time) -> Time {
        self.now = self.now.max(now);
        self.now
    }

    /// What a decision would be made upon now.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        self.index.snapshot(self.now.max(now), self.config.stale_after).0
    }

    /// The migrations in flight, by number.
    pub fn in_flight(&self) -> impl Iterator<Item = &Order> {
        self.admission.in_flight()
    }

    /// What it has done and dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How it behaves.
    pub fn config(&self) -> &ControlConfig {
        &self.config
    }

    /// The policy that it asks.
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }
}
