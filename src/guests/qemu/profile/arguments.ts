/**
 * One value of a QEMU option, such as `virtio-blk-pci,drive=d0,id=vd0` or its JSON form, opened up
 * so that single keys can be read and changed and everything else stays exactly as it was.
 *
 * The text form is QEMU's own (include/qemu/option.h, util/keyval.c in its source): pairs divided by
 * commas, a comma inside a value doubled, the first key often implied, a key without a value a
 * switch. Nested keys are written with dots (`file.filename`), in the JSON form they are objects.
 */

/** What the key of an option's leading word is, where QEMU implies one. */
export const IMPLIED_KEYS: Readonly<Record<string, string>> = {
  accel: 'accel',
  audio: 'driver',
  audiodev: 'driver',
  blockdev: 'driver',
  chardev: 'backend',
  device: 'driver',
  fsdev: 'fsdriver',
  fw_cfg: 'name',
  machine: 'type',
  mon: 'chardev',
  net: 'type',
  netdev: 'type',
  nic: 'type',
  numa: 'type',
  object: 'qom-type',
  tpmdev: 'type',
  virtfs: 'fsdriver',
};

interface Pair {
  readonly key: string;
  /** Null for a switch (`server`), which means `on`. */
  readonly value: string | null;
  /** The leading word, written without its key. */
  readonly isHead: boolean;
}

type JsonObject = Record<string, unknown>;

/** An option's value with its keys. */
export class Arguments {
  #pairs: Pair[];
  readonly #json: JsonObject | null;

  private constructor(pairs: Pair[], json: JsonObject | null) {
    this.#pairs = pairs;
    this.#json = json;
  }

  /**
   * Opens a value up.
   * @param impliedKey the key of a leading word, if QEMU implies one.
   */
  static parse(text: string, impliedKey?: string): Arguments {
    if (text.startsWith('{')) {
      const json = parseObject(text);
      if (json !== null) return new Arguments([], json);
    }
    return new Arguments(parsePairs(text, impliedKey), null);
  }

  /** A value made of a leading word and pairs. */
  static of(
    impliedKey: string,
    head: string,
    pairs: Readonly<Record<string, string | number>> = {},
  ): Arguments {
    const rest = Object.entries(pairs).map(([key, value]) => ({
      key,
      value: String(value),
      isHead: false,
    }));
    return new Arguments([{ key: impliedKey, value: head, isHead: true }, ...rest], null);
  }

  get isJson(): boolean {
    return this.#json !== null;
  }

  /** The last value of a key as text, booleans as `on` and `off`; undefined when absent. */
  get(key: string): string | undefined {
    if (this.#json !== null) return jsonText(descend(this.#json, key.split('.')));
    const found = this.#pairs.findLast((pair) => pair.key === key);
    if (found !== undefined) return found.value ?? 'on';
    // The old way to say no: `nowait`.
    const isDenied = this.#pairs.some((pair) => pair.value === null && pair.key === `no${key}`);
    return isDenied ? 'off' : undefined;
  }

  /** Whether a switch is on. */
  isOn(key: string, ifAbsent = false): boolean {
    const value = this.get(key);
    if (value === undefined) return ifAbsent;
    return ['on', 'yes', 'true', 'y'].includes(value);
  }

  /** Sets a key, in its place or at the end. */
  set(key: string, value: string): void {
    if (this.#json !== null) {
      assign(this.#json, key.split('.'), value);
      return;
    }
    const at = this.#pairs.findIndex((pair) => pair.key === key);
    if (at < 0) {
      this.#pairs.push({ key, value, isHead: false });
      return;
    }
    const isHead = this.#pairs[at]?.isHead ?? false;
    this.#pairs = this.#pairs.filter((pair, index) => index <= at || pair.key !== key);
    this.#pairs[at] = { key, value, isHead };
  }

  /** Removes a key and, in dotted form, everything below it. */
  delete(key: string): void {
    if (this.#json === null) {
      this.#pairs = this.#pairs.filter(
        (pair) =>
          pair.key !== key &&
          !pair.key.startsWith(`${key}.`) &&
          !(pair.value === null && pair.key === `no${key}`),
      );
      return;
    }
    const names = key.split('.');
    const last = names.pop() ?? '';
    const parent = descend(this.#json, names);
    if (isObject(parent)) delete parent[last];
  }

  /** The value as QEMU reads it. */
  toString(): string {
    if (this.#json !== null) return JSON.stringify(this.#json);
    return this.#pairs
      .map(({ key, value, isHead }) => {
        if (value === null) return key;
        const escaped = value.replaceAll(',', ',,');
        return isHead ? escaped : `${key}=${escaped}`;
      })
      .join(',');
  }
}

function parsePairs(text: string, impliedKey: string | undefined): Pair[] {
  const pairs: Pair[] = [];
  let at = 0;
  while (at < text.length) {
    const start = at;
    let word = '';
    while (at < text.length) {
      if (text[at] === ',') {
        if (text[at + 1] !== ',') break;
        at += 1;
      }
      word += text[at] ?? '';
      at += 1;
    }
    at += 1;
    const equals = word.indexOf('=');
    const isFirst = start === 0;
    if (equals >= 0) {
      pairs.push({ key: word.slice(0, equals), value: word.slice(equals + 1), isHead: false });
    } else if (isFirst && impliedKey !== undefined) {
      pairs.push({ key: impliedKey, value: word, isHead: true });
    } else if (word !== '') {
      pairs.push({ key: word, value: null, isHead: false });
    }
  }
  return pairs;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseObject(text: string): JsonObject | null {
  try {
    const json: unknown = JSON.parse(text);
    return isObject(json) ? json : null;
  } catch (error) {
    // What only looks like JSON is text: QEMU itself would have refused to start with it.
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function descend(from: JsonObject, names: readonly string[]): unknown {
  let value: unknown = from;
  for (const name of names) {
    if (!isObject(value) || !Object.hasOwn(value, name)) return undefined;
    value = value[name];
  }
  return value;
}

function assign(into: JsonObject, names: readonly string[], value: string): void {
  let target = into;
  for (const name of names.slice(0, -1)) {
    const next = Object.hasOwn(target, name) ? target[name] : undefined;
    if (isObject(next)) {
      target = next;
    } else {
      const made: JsonObject = {};
      Object.defineProperty(target, name, { value: made, enumerable: true, writable: true });
      target = made;
    }
  }
  const last = names.at(-1) ?? '';
  const old = Object.hasOwn(target, last) ? target[last] : undefined;
  const typed =
    typeof old === 'boolean' || value === 'on' || value === 'off' ? value === 'on' : value;
  Object.defineProperty(target, last, {
    value: typeof old === 'number' && !Number.isNaN(Number(value)) ? Number(value) : typed,
    enumerable: true,
    writable: true,
    configurable: true,
  });
}

function jsonText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (typeof value === 'number') return String(value);
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  return undefined;
}
