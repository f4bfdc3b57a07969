/** Why a primary turns a backup away, in words and with what to do about it. */
import type { ErrorCode } from '../base/errors.ts';
import type { Instance } from './register.ts';

/** A refusal as it travels to the backup. */
export interface Refusal {
  readonly code: ErrorCode;
  readonly text: string;
  readonly remedy: string;
}

/** It holds an image made for another machine, which must not be overwritten. */
export function guestMismatch(node: string): Refusal {
  return {
    code: 'ERR_CONFIG_GUEST_MISMATCH',
    text: `${node} holds an image of another machine`,
    remedy: 'Start that backup with the address of its own primary, or start it anew.',
  };
}

/** This node has no right to run the guest. */
export function notRunning(why: string): Refusal {
  return {
    code: 'ERR_FENCED_PRIMARY',
    text: `this node does not run the guest: ${why}`,
    remedy: 'Dial the node that does.',
  };
}

/** A guest has one backup at a time. */
export function secondBackup(node: string, currentNode: string): Refusal {
  return {
    code: 'ERR_LIMIT_SECOND_BACKUP',
    text: `${currentNode} already is the backup of this guest, ${node} cannot be a second one`,
    remedy: `Stop the backup on ${currentNode} first.`,
  };
}

/** Old acknowledgements would count for the new image. */
export function instanceReused(instance: Instance): Refusal {
  return {
    code: 'ERR_PROTOCOL_INSTANCE',
    text: `"${instance}" cannot be the name of a new image`,
    remedy: 'This is a defect in the backup: please report it with its log.',
  };
}

/** Without an arbiter, `--on-silence promote`: output waits for the one partner. */
export function onlyPartnerMayResume(partner: Instance): Refusal {
  return {
    code: 'ERR_ARBITER_NONE',
    text: `output waits for ${partner}, which alone may resume (--on-silence promote)`,
    remedy: 'Start the guest under a new pair, or use an arbiter.',
  };
}
