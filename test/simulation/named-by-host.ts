/**
 * What the register would be if it named hosts in place of instances: a backup that returns with
 * another image finds its host named still, and its primary sees no reason to leave the word when
 * the same host comes back. Used only with the rule `instances` left out.
 */
import type { RegisterAnswer, RegisterRequest } from '../../src/core/register-client.ts';
import { type RegisterWord, sameWord } from '../../src/core/register.ts';
import { BackupProcess } from './backup-process.ts';
import { PrimaryProcess } from './primary-process.ts';
import type { Site } from './site.ts';

type Change = Extract<RegisterRequest, { kind: 'changeRegister' }>;
type Answer = (answer: RegisterAnswer) => void;

export class NamedByHost {
  readonly #site: Site;
  /** The word this primary goes by, and the one that really stands for it. */
  #alias: { readonly believed: RegisterWord; readonly real: RegisterWord } | null = null;

  constructor(site: Site) {
    this.#site = site;
  }

  ask(request: RegisterRequest, answer: Answer): void {
    const { arbiter } = this.#site.cluster;
    if (request.kind === 'readRegister') {
      return arbiter.ask(this.#site.name, request, (reply) =>
        answer(
          reply.outcome === 'unreachable' ? reply : { ...reply, word: this.#shown(reply.word) },
        ),
      );
    }
    if (this.#isNoChange(request)) {
      this.#alias = { believed: request.next, real: this.#real(request.expected) as RegisterWord };
      this.#site.cluster.world.after(0.1, () =>
        answer({
          kind: 'registerAnswer',
          requestId: request.requestId,
          outcome: 'changed',
          won: true,
          word: request.next,
        }),
      );
      return;
    }
    const expected = this.#real(request.expected);
    const next = {
      ...request.next,
      generation: ((expected?.generation ?? 0) + 1) as RegisterWord['generation'],
    };
    arbiter.ask(this.#site.name, { ...request, expected, next }, (reply) => {
      if (reply.outcome === 'changed' && sameWord(reply.word, next)) {
        this.#alias = { believed: request.next, real: next };
        answer({ ...reply, won: true, word: request.next });
      } else {
        answer(
          reply.outcome === 'unreachable' ? reply : { ...reply, word: this.#shown(reply.word) },
        );
      }
    });
  }

  /** True when, by host, the word would not change: the same two hosts, in the same roles. */
  #isNoChange({ expected, next }: Change): boolean {
    const { engine, name } = this.#site;
    const real = this.#real(expected);
    if (!(engine instanceof PrimaryProcess) || real === null || real.partner === null) return false;
    if (hostOf(real.runner) !== name || next.runner !== expected?.runner) return false;
    if (next.partner !== null) return hostOf(next.partner) === hostOf(real.partner);
    return engine.waitingLinkId !== null;
  }

  #real(word: RegisterWord | null): RegisterWord | null {
    if (word === null) return null;
    if (this.#alias !== null && sameWord(word, this.#alias.believed)) return this.#alias.real;
    const { word: real } = this.#site.cluster.arbiter;
    const isByHost =
      real !== null &&
      real.generation === word.generation &&
      hostOf(real.runner) === hostOf(word.runner) &&
      hostOf(real.partner ?? '') === hostOf(word.partner ?? '');
    return isByHost ? real : word;
  }

  #shown(word: RegisterWord | null): RegisterWord | null {
    if (word === null) return null;
    if (this.#alias !== null && sameWord(word, this.#alias.real)) return this.#alias.believed;
    const { engine, name } = this.#site;
    if (!(engine instanceof BackupProcess) || hostOf(word.partner ?? '') !== name) return word;
    return { ...word, partner: engine.core.status.instance ?? word.partner };
  }
}

function hostOf(instance: string): string {
  return instance.split('#', 1)[0] ?? '';
}
