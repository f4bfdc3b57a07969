/** Tries in a thread of its own what the heartbeat thread does, so that nothing else is changed. */
import { parentPort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { boostThread } from '../native/host.ts';

assert(parentPort !== null, 'the trial is started by priorityToBeHad only');
parentPort.postMessage(boostThread());
