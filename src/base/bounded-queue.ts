/**
 * A first-in first-out queue with a capacity in whatever unit its items are weighed in. It never
 * grows past its bound: `push` says no, and the caller decides what that means.
 */
export class BoundedQueue<T> {
  readonly capacity: number;
  readonly #weigh: (item: T) => number;
  #items: (T | undefined)[] = [];
  #head = 0;
  #weight = 0;

  constructor(options: { capacity: number; weigh?: (item: T) => number }) {
    if (!(options.capacity > 0)) throw new RangeError(`capacity must be > 0: ${options.capacity}`);
    this.capacity = options.capacity;
    this.#weigh = options.weigh ?? ((): number => 1);
  }

  get count(): number {
    return this.#items.length - this.#head;
  }

  /** Sum of the weights of all that waits. */
  get weight(): number {
    return this.#weight;
  }

  /** False, and nothing changed, when the item would exceed the capacity. */
  push(item: T): boolean {
    const weight = this.#weigh(item);
    // One item heavier than the whole queue must still pass, or it would wait for ever.
    if (this.#weight + weight > this.capacity && this.count > 0) return false;
    this.#items.push(item);
    this.#weight += weight;
    return true;
  }

  peek(): T | undefined {
    return this.#items[this.#head];
  }

  shift(): T | undefined {
    const item = this.#items[this.#head];
    if (item === undefined) return undefined;
    this.#items[this.#head] = undefined;
    this.#head += 1;
    this.#weight -= this.#weigh(item);
    // Compacting only when half is waste keeps shift O(1) on average.
    if (this.#head > 64 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }

  clear(): void {
    this.#items = [];
    this.#head = 0;
    this.#weight = 0;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (let index = this.#head; index < this.#items.length; index += 1) {
      const item = this.#items[index];
      if (item !== undefined) yield item;
    }
  }
}
