/**
 * Preloaded into every thread of a node: collects all garbage now and then, so that its memory shows what
 * it keeps, and not when V8 last found it worth the while to collect.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

const EVERY_MS = 30_000;

setFlagsFromString('--expose-gc');
/** @type {() => void} */
const collect = runInNewContext('gc');
setInterval(() => {
  collect();
}, EVERY_MS).unref();
