/**
 * What goes wrong in a run, and when: drawn from the seed. Faults overlap as they please until the
 * chaos ends; then everything is repaired and the rest of the run must heal by itself.
 */
import { BackupProcess } from './backup-process.ts';
import type { Cluster } from './cluster.ts';
import { PrimaryProcess } from './primary-process.ts';
import type { Site } from './site.ts';

type Fault = (cluster: Cluster, site: Site) => void;

const FAULTS: readonly (readonly [weight: number, name: string, fault: Fault])[] = [
  [4, 'crash of engine and guest', (_, site): void => site.crash('both')],
  [4, 'crash of the engine', (_, site): void => site.crash('engine')],
  [
    5,
    'freeze',
    ({ world, checks }, site): void => {
      checks.tally.freezes += 1;
      site.engine?.freeze(world.random.chance(0.5) ? world.between(1, 60) : world.between(40, 400));
    },
  ],
  [
    4,
    'freezes between decision and effect',
    (cluster, site): void => during(cluster, 5, 80, site.host, 'freezeBetween', 0.05),
  ],
  [5, 'partition', partition],
  [4, 'link cut', ({ network }): void => network.cutAll()],
  [4, 'arbiter out of reach', arbiterCutOff],
  [
    3,
    'arbiter slow',
    (cluster): void => during(cluster, 20, 200, cluster.arbiter, 'delayMsMax', 120),
  ],
  [
    3,
    'arbiter loses',
    (cluster): void => during(cluster, 20, 200, cluster.arbiter, 'lossProbability', 0.4),
  ],
  [6, 'false accusation', accuse],
  [
    3,
    'network slow',
    (cluster): void => during(cluster, 20, 150, cluster.network, 'latencyMsMax', 60),
  ],
  [
    3,
    'heartbeats lost',
    (cluster): void => during(cluster, 20, 150, cluster.network, 'heartbeatLoss', 0.6),
  ],
  [
    2,
    'connections hostile',
    (cluster): void => during(cluster, 10, 100, cluster.network, 'hostility', 0.08),
  ],
  [5, 'accusation while acknowledgements are slow', slowAndAccused],
  [2, 'suspend refused', suspendRefused],
  [2, 'slow apply', slowApply],
  [
    3,
    'acknowledgements ever later',
    (cluster): void => during(cluster, 150, 300, cluster.network, 'bulkDelayMsMax', 400),
  ],
  [2, 'guest dies', (_, site): void => site.loseGuest()],
  [
    2,
    'clean shutdown',
    (_, { engine }): void => {
      if (engine instanceof PrimaryProcess) engine.dispatch({ kind: 'shutdown' });
    },
  ],
  [2, 'backlog', backlog],
];

const TOTAL_WEIGHT = FAULTS.reduce((sum, [weight]) => sum + weight, 0);

/** Lets faults happen until `endMs`, then repairs all. */
export function scheduleFaults(cluster: Cluster, endMs: number, count: number): void {
  const { world } = cluster;
  for (let index = 0; index < count; index += 1) {
    // Faults that come in quick succession meet unfinished business.
    const atMs = world.random.chance(0.5)
      ? world.between(0, endMs)
      : Math.min(endMs * 0.6 + world.between(0, 60), endMs);
    world.after(atMs, () => happen(cluster));
  }
  world.after(endMs, () => repair(cluster));
}

function happen(cluster: Cluster): void {
  const { random } = cluster.world;
  const site = random.pick(cluster.sites);
  let ticket = random.nextBelow(TOTAL_WEIGHT);
  for (const [weight, name, fault] of FAULTS) {
    ticket -= weight;
    if (ticket < 0) {
      cluster.world.trace(site.name, () => `!!! ${name}`);
      return fault(cluster, site);
    }
  }
}

/** Sets a knob for a while. */
function during<Knob extends string>(
  { world }: Cluster,
  lowMs: number,
  highMs: number,
  target: Record<Knob, number>,
  knob: Knob,
  value: number,
): void {
  const before = target[knob];
  if (before === value) return;
  target[knob] = value;
  world.after(world.between(lowMs, highMs), () => {
    if (target[knob] === value) target[knob] = before;
  });
}

function partition({ world, network }: Cluster): void {
  const directions = world.random.pick([['a>b'], ['b>a'], ['a>b', 'b>a']]);
  world.trace('', () => `    blocked ${directions.join(' ')}`);
  for (const direction of directions) network.blocked.add(direction);
  world.after(world.between(5, 250), () => {
    for (const direction of directions) network.unblock(direction);
  });
}

function arbiterCutOff({ world, arbiter }: Cluster): void {
  const names = world.random.pick([['a'], ['b'], ['a', 'b']]);
  for (const name of names) arbiter.cutOff.add(name);
  world.after(world.between(5, 250), () => {
    for (const name of names) arbiter.cutOff.delete(name);
  });
}

/** What was acknowledged in time arrives when the promise is about to end, or has ended. */
function slowAndAccused(cluster: Cluster): void {
  const { world, sites } = cluster;
  during(cluster, 40, 120, cluster.network, 'bulkDelayMsMax', 90);
  world.after(world.between(0, 60), () => {
    const backup = sites.find(({ engine }) => engine instanceof BackupProcess);
    if (backup !== undefined) accuse(cluster, backup);
  });
}

function accuse({ world }: Cluster, { engine }: Site): void {
  engine?.accuse('a mistake', world.random.chance(0.4) ? 0 : world.between(20, 150));
}

function suspendRefused({ world }: Cluster, { engine }: Site): void {
  if (!(engine instanceof PrimaryProcess)) return;
  engine.setSuspendRefused(true);
  world.after(world.between(5, 100), () => engine.setSuspendRefused(false));
}

function slowApply({ world }: Cluster, { engine }: Site): void {
  if (!(engine instanceof BackupProcess)) return;
  engine.applyMsMax = 40;
  world.after(world.between(5, 100), () => {
    engine.applyMsMax = 2;
  });
}

function backlog({ world }: Cluster, { engine }: Site): void {
  if (!(engine instanceof PrimaryProcess)) return;
  engine.dispatch({ kind: 'queueLevel', bytes: world.random.pick([150, 2000]) });
  world.after(world.between(5, 100), () => engine.dispatch({ kind: 'queueLevel', bytes: 0 }));
}

function repair(cluster: Cluster): void {
  const { network, arbiter, sites } = cluster;
  cluster.world.trace('', () => '*** everything is repaired');
  for (const direction of network.blocked) network.unblock(direction);
  Object.assign(network, { latencyMsMax: 1, bulkDelayMsMax: 0, heartbeatLoss: 0, hostility: 0 });
  arbiter.cutOff.clear();
  Object.assign(arbiter, { delayMsMax: 2, lossProbability: 0 });
  for (const { host } of sites) host.freezeBetween = 0;
}
