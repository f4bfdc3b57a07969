/**
 * The output of a QEMU machine while this engine is attached to it: filters in QEMU on the capture
 * thread's side, which owns the monitor, sockets and gate on the main thread's.
 *
 * From before the first filter is in until the register has said who may be heard, the gate holds:
 * nothing that the guest says meanwhile is lost, and nothing leaves. Filters are taken out only when
 * the gate is open by right, or when nobody ever closed the network: else they stay when we go, and
 * QEMU drops what the guest says (nets/redirector/filters.ts).
 */
import type { Logger } from 'pino';
import { type RomulusError, toRomulusError } from '../base/errors.ts';
import { BEAT_WORDS, type GuardianLink } from '../native/guardian-link.ts';
import type { OutletSwitch } from '../nets/outlet-switch.ts';
import type { OutputGate } from '../nets/output-gate.ts';
import { Redirector } from '../nets/redirector/redirector.ts';
import type { CaptureMethods } from './capture-worker.ts';
import type { ThreadClient } from './thread-rpc.ts';

/** How long what was let out may take to be read by QEMU before the filters go, milliseconds. */
const FLUSH_MS_MAX = 300;

export interface HeldNetOptions {
  readonly capture: ThreadClient<CaptureMethods>;
  readonly gate: OutputGate;
  readonly outlet: OutletSwitch;
  readonly log: Logger;
  /** Frees QEMU of us when this whole process is frozen or killed. */
  readonly guardian: GuardianLink | null;
  /** How many netdevs the capture thread's machine has. */
  readonly nicCount: number;
  /** QEMU let go of us: the network is closed until it is attached to anew. At most once. */
  readonly onLost: (error: RomulusError) => void;
}

/** The output of one attachment. Made by `HeldNet.attach`. */
export class HeldNet {
  readonly #options: HeldNetOptions;
  readonly #redirector: Redirector;
  /** Whether the network was closed when we came: by one who held it and died. */
  readonly #wasClosed: boolean;
  readonly #unwatch: () => void;

  private constructor(
    options: HeldNetOptions,
    found: { redirector: Redirector; wasClosed: boolean; unwatch: () => void },
  ) {
    this.#options = options;
    this.#redirector = found.redirector;
    this.#wasClosed = found.wasClosed;
    this.#unwatch = found.unwatch;
  }

  /**
   * Puts the filters in.
   * @throws {RomulusError} ERR_NET_FILTER, ERR_NET_TAP; the network is then as it was found.
   */
  static async attach(options: HeldNetOptions): Promise<HeldNet> {
    const { capture, gate, outlet, log, guardian, nicCount, onLost } = options;
    const wasShut = gate.mode === 'closed';
    if (wasShut) gate.hold();
    let redirector: Redirector | null = null;
    let unwatch = (): void => undefined;
    try {
      redirector = new Redirector({
        gate,
        nicCount,
        onLost,
        ...(guardian !== null && { beat: { memory: guardian.page, index: BEAT_WORDS.net } }),
      });
      if (guardian !== null) {
        const ends = redirector.captureEnds.map((end) => guardian.watch(end, 'net'));
        unwatch = (): void => {
          for (const end of ends) end();
        };
      }
      const { tapId, farEnds } = redirector;
      outlet.use(redirector);
      const { wasClosed } = await capture.call('attachNet', { tapId, farEnds });
      redirector.handedOver();
      log.info({ nics: nicCount, wasClosed }, "the machine's network output is held");
      return new HeldNet(options, { redirector, wasClosed, unwatch });
    } catch (error) {
      outlet.use(null);
      unwatch();
      redirector?.close();
      if (wasShut) gate.close();
      throw error;
    }
  }

  /**
   * Lets go of the network. It is open afterwards if the gate is, or if `wasNeverOurs` (the register
   * was not heard in this machine's name) and we found it open; else QEMU drops all output.
   */
  async detach(wasNeverOurs: boolean): Promise<void> {
    const { capture, gate, outlet, log } = this.#options;
    const opens = gate.mode === 'open' || (wasNeverOurs && !this.#wasClosed);
    try {
      if (opens) {
        gate.open();
        await this.#redirector.flushed(FLUSH_MS_MAX);
      }
      this.#redirector.letGo();
      await capture.call('detachNet', { opens });
    } catch (error) {
      // The machine, or the thread that holds its monitor, is gone: then nothing is let out.
      log.info({ error: toRomulusError(error).toJSON() }, 'the filters of the machine stay');
    } finally {
      outlet.use(null);
      this.#unwatch();
      this.#redirector.close();
      gate.discard();
    }
  }
}
