/** Who watches a drill: a terminal, a JSON stream, a test. */
import type { NodeStatus } from '../engine/status.ts';

export interface DrillObserver {
  /** The stage is set; its files are in this directory until the drill ends. */
  readonly onStart: (directory: string) => void;
  /** One thing happened, in plain words. */
  readonly onStory: (text: string) => void;
  /** A node reported how it goes; several times a second. */
  readonly onProgress: (node: string, status: NodeStatus) => void;
}
