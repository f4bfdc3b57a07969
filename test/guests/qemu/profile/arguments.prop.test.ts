/** Goal: what is not touched stays as it was, in the text form and in JSON. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Arguments } from '../../../../src/guests/qemu/profile/arguments.ts';
import { formatOptions, parseArgv } from '../../../../src/guests/qemu/profile/argv.ts';

const key = fc.stringMatching(/^[a-z][a-z0-9._-]{0,12}$/);
const value = fc.string({ maxLength: 20 });
const head = fc.stringMatching(/^[a-z0-9][^={\0]{0,12}$/);

describe('Arguments', () => {
  it('gives back any pairs, commas in values included', () => {
    fc.assert(
      fc.property(
        head,
        fc.uniqueArray(fc.tuple(key, value), { selector: ([name]) => name }),
        (first, pairs) => {
          const made = Arguments.of('driver', first, Object.fromEntries(pairs));
          const read = Arguments.parse(made.toString(), 'driver');
          expect(read.toString()).toBe(made.toString());
          expect(read.get('driver')).toBe(Object.fromEntries(pairs)['driver'] ?? first);
          for (const [name, text] of pairs) expect(read.get(name)).toBe(text);
        },
      ),
    );
  });

  it('changes one key and nothing else', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(key, { minLength: 2, maxLength: 8 }),
        value,
        value,
        (keys, old, changed) => {
          const [target = '', ...others] = keys;
          const made = Arguments.of(
            'driver',
            'x',
            Object.fromEntries(keys.map((name) => [name, old])),
          );
          made.set(target, changed);
          const read = Arguments.parse(made.toString(), 'driver');
          expect(read.get(target)).toBe(changed);
          for (const name of others) expect(read.get(name)).toBe(old);
        },
      ),
    );
  });

  it('keeps JSON as JSON, whatever is in it', () => {
    fc.assert(
      fc.property(fc.dictionary(key, fc.jsonValue()), value, (object, changed) => {
        const read = Arguments.parse(JSON.stringify(object), 'driver');
        expect(JSON.parse(read.toString())).toEqual(JSON.parse(JSON.stringify(object)));
        read.set('some.where', changed);
        expect(read.get('some.where')).toBe(changed);
      }),
    );
  });

  it('never fails on noise', () => {
    fc.assert(
      fc.property(fc.string(), key, (text, name) => {
        const read = Arguments.parse(text, 'driver');
        read.get(name);
        read.delete(name);
        expect(read.get(name) === undefined || read.isJson || text.includes(`no${name}`)).toBe(
          true,
        );
        expect(Arguments.parse(read.toString(), 'driver').toString()).toBe(read.toString());
      }),
    );
  });

  it.each([
    ['socket,id=a,path=/x,server,nowait', 'server', 'on'],
    ['socket,id=a,path=/x,server,nowait', 'wait', 'off'],
    ['virtio-blk-pci,drive=a,,b', 'drive', 'a,b'],
    ['{"file":{"filename":"/a"}}', 'file.filename', '/a'],
    ['{"read-only":true}', 'read-only', 'on'],
    ['{"a":1}', 'constructor', undefined],
  ])('reads %s', (text, name, expected) => {
    expect(Arguments.parse(text, 'driver').get(name)).toBe(expected);
  });

  it('keeps the type that a JSON value had', () => {
    const read = Arguments.parse('{"n":5,"b":true,"s":"x"}');
    read.set('n', '7');
    read.set('b', 'off');
    read.set('s', '7');
    expect(read.toString()).toBe('{"n":7,"b":false,"s":"7"}');
  });
});

describe('parseArgv', () => {
  it.each([
    ['qemu -S -m 64 disk.img', ['qemu'], '-S -m 64 disk.img'],
    ['qemu --enable-kvm -nodefaults -cpu host', ['qemu'], '-enable-kvm -nodefaults -cpu host'],
    [
      '/r/ld-linux-x86-64.so.2 --library-path /r/lib /r/bin/qemu -L /r/share -S',
      ['/r/ld-linux-x86-64.so.2', '--library-path', '/r/lib', '/r/bin/qemu'],
      '-L /r/share -S',
    ],
    ['qemu -future -m 64', ['qemu'], '-future -m 64'],
    ['qemu -future value -m 64', ['qemu'], '-future value -m 64'],
  ])('cuts %s', (line, launcher, options) => {
    const parsed = parseArgv(line.split(' '));
    expect(parsed.launcher).toEqual(launcher);
    expect(formatOptions(parsed.options).join(' ')).toBe(options);
  });

  it('never fails on noise, and gives every word back', () => {
    fc.assert(
      fc.property(fc.array(fc.string()), (words) => {
        const { options } = parseArgv(['qemu', ...words]);
        const again = formatOptions(options);
        expect(formatOptions(parseArgv(['qemu', ...again]).options)).toEqual(again);
      }),
    );
  });
});
