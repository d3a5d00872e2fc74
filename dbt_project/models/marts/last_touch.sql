{{ touches('desc') }}
