{{ touches_of_people('desc') }}
