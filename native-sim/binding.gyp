{
  'target_defaults': {
    'cflags!': ['-fno-exceptions', '-fno-rtti', '-O3'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17'],
    'cflags': ['-O2', '-g', '-Wall', '-Wextra', '-Wno-unused-parameter', '-fvisibility=hidden', '-pthread'],
    'cflags_cc': ['-std=gnu++20', '-fexceptions'],
    'ldflags': ['-pthread'],
    'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
    'defines': ['NAPI_VERSION=8', 'NODE_ADDON_API_DISABLE_DEPRECATED', '_GNU_SOURCE'],
  },
  'targets': [
    {
      'target_name': 'romulus_native',
      'sources': [
        'src/addon.cc',
        'src/host.cc',
        'src/mapped_memory.cc',
        'src/memory.cc',
        'src/mprotect_tracker.cc',
        'src/tracker.cc',
        'src/capture.cc',
        'src/page_delta.cc',
        'src/page_store.cc',
        'src/sim_oracle.cc',
      ],
    },
    {
      'target_name': 'romulus-sim',
      'type': 'executable',
      'product_extension': '',
      'sources': ['src/sim_main.cc'],
    },
  ],
}
