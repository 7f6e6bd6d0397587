//! The faults that a campaign makes.

/// A fault, while which at least a majority of the members can go on, or which ends by itself.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// jetway or etcd dies.
    Kill,
    /// The machine is gone: nats-server dies too.
    Machine,
    /// The process stands still.
    Pause,
    /// The leader's process stands still for longer than a lease lives.
    LeaderPause,
    /// nats-server stands still.
    NatsPause,
    /// nats-server dies alone.
    NatsServer,
    /// Two machines are gone at once.
    Majority,
    /// One member after the other is restarted.
    RollingRestart,
    /// Another member writes, again and again.
    MoveLeader,
    /// No packet reaches or leaves a member.
    Alone,
    /// Packets to a member are lost, those from it arrive.
    OneWay,
    /// Two members do not reach each other; both reach the third.
    Between,
    /// The same again and again, for moments.
    Flapping,
    /// All connections are slow, each by another time, so that messages overtake each other.
    Slow,
    /// The routes to a member break again and again.
    RouteBreaks,
    /// Nothing reaches a member over the routes that others have made; the other way is open.
    RouteOneWay,
    /// The answers of a member do not reach its clients, and then the connections break.
    AnswersHeld,
    /// A member's disk needs long for each sync.
    SlowDisk,
    /// The members' clocks are set ahead and back, each by another time.
    ClockJumps,
    /// A member's power is cut, and its disk forgets what was not synced.
    PowerCut,
    /// A fourth member joins and is removed.
    FourthMember,
}

pub const OF_PROCESSES: [Fault; 10] = [
    Fault::None,
    Fault::Kill,
    Fault::Machine,
    Fault::Pause,
    Fault::LeaderPause,
    Fault::NatsPause,
    Fault::NatsServer,
    Fault::Majority,
    Fault::RollingRestart,
    Fault::MoveLeader,
];
pub const OF_PROXIES: [Fault; 4] = [Fault::Slow, Fault::RouteBreaks, Fault::RouteOneWay, Fault::AnswersHeld];
pub const OF_THE_NETWORK: [Fault; 4] = [Fault::Alone, Fault::OneWay, Fault::Between, Fault::Flapping];

/// Faults of a member with a disk and a clock of its own.
pub const OF_MACHINES: [Fault; 4] =
    [Fault::SlowDisk, Fault::ClockJumps, Fault::PowerCut, Fault::FourthMember];
